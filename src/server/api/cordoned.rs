//! What a broker checks of a change of its own `cordoned.log.dirs` before it forwards it: it alone
//! knows its directories (`ConfigAdminManager.validateBrokerConfigChange`, KIP-1066).

use crate::{
    base::ErrorCode,
    config::dynamic,
    metadata::ConfigResource,
    server::{
        context::{Admin, Role},
        forward::Failure,
    },
};

const KEY: &str = "cordoned.log.dirs";
const BROKER: i8 = 4;
const SET: i8 = 0;
const APPEND: i8 = 2;

/// One change of a key: its name, the operation by number, and the value.
pub(super) type Change<'a> = (&'a str, i8, Option<&'a str>);

/// Checks the changes of one resource; those that do not concern the key pass.
///
/// # Errors
/// `InvalidRequest`: the change is another broker's, or names what is no directory of this one.
pub(super) fn check<'a>(
    node: &dyn Admin,
    (kind, name): (i8, &str),
    mut changes: impl Iterator<Item = Change<'a>>,
) -> Result<(), Failure> {
    if node.role() != Role::Broker || kind != BROKER || name.is_empty() {
        return Ok(());
    }
    let Some((_, operation, value)) = changes.find(|(key, ..)| *key == KEY) else {
        return Ok(());
    };
    let me = node.node_id();
    if name.parse() != Ok(me.0) {
        return Err(Failure::new(
            ErrorCode::InvalidRequest,
            format!("Unexpected broker id, expected {me} or empty string, but received {name}"),
        ));
    }
    let present = match operation {
        SET => String::new(),
        APPEND => {
            let image = node.image();
            let own = image.configs().keys_of(&ConfigResource::broker(me));
            let fixed = || node.settings().layers.given(KEY).map(|(text, _)| text.to_owned());
            own.get(KEY).cloned().or_else(fixed).unwrap_or_default()
        }
        // What is taken away needs no check.
        _ => return Ok(()),
    };
    let split = |text: &'a str| text.split(',').map(str::trim).filter(|d| !d.is_empty());
    let mut list: Vec<&str> = present.split(',').map(str::trim).collect();
    list.retain(|d| !d.is_empty());
    list.extend(value.map(split).into_iter().flatten());
    dynamic::check_cordoned(&list, &node.settings().log_dirs)
        .map_err(|rule| Failure::new(ErrorCode::InvalidRequest, rule))
}
