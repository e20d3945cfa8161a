//! Which controller `kafka-metadata-quorum add-controller` adds: the one whose own configuration
//! file is given (`MetadataQuorumCommand.handleAddController`).

use std::{collections::BTreeMap, path::Path};

use super::{admin::AdminError, args, quorum::shown_endpoint};
use crate::{
    base::Uuid,
    config::{
        endpoint::parse_host_port,
        meta_properties::{META_PROPERTIES, META_PROPERTIES_BYTES_MAX, MetaProperties},
    },
    wire::api::quorum::QuorumListener,
};

/// The controller that a server's configuration file describes.
#[derive(Debug)]
pub(super) struct NewController {
    /// Its node id.
    pub(super) id: i32,
    /// Id of its metadata log directory.
    pub(super) directory_id: Uuid,
    /// Where other controllers reach it.
    pub(super) listeners: Vec<QuorumListener>,
}

impl std::fmt::Display for NewController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<_> = self.listeners.iter().map(shown_endpoint).collect();
        write!(
            f,
            "controller {} with directory id {} and endpoints: {}",
            self.id,
            self.directory_id,
            endpoints.join(", ")
        )
    }
}

impl NewController {
    /// Reads it from the file's properties and from the directory that they name.
    ///
    /// # Errors
    /// `Usage`: what the file or the directory lacks.
    pub(super) fn of(properties: &BTreeMap<String, String>) -> Result<Self, AdminError> {
        let usage = AdminError::Usage;
        let id = properties.get("node.id").ok_or_else(|| {
            usage(
                "node.id not found in configuration file. Is this a valid controller \
                 configuration file?"
                    .to_owned(),
            )
        })?;
        let id = id.trim().parse().map_err(|_| usage(format!("node.id {id} is no number")))?;
        if id < 0 {
            return Err(usage(
                "node.id was negative in configuration file. Is this a valid controller \
                 configuration file?"
                    .to_owned(),
            ));
        }
        if !properties.get("process.roles").is_some_and(|r| r.contains("controller")) {
            return Err(usage(
                "process.roles did not contain 'controller' in configuration file. Is this a \
                 valid controller configuration file?"
                    .to_owned(),
            ));
        }
        let directory = metadata_directory(properties)?;
        let directory_id = directory_id(Path::new(&directory))?;
        Ok(Self { id, directory_id, listeners: controller_listeners(properties)? })
    }
}

fn metadata_directory(properties: &BTreeMap<String, String>) -> Result<String, AdminError> {
    let first = |list: &String| list.trim().split(',').next().map(|d| d.trim().to_owned());
    let dir = properties.get("metadata.log.dir").map(|d| d.trim().to_owned());
    let dir = dir.or_else(|| properties.get("log.dirs").and_then(first));
    let dir = dir.or_else(|| properties.get("log.dir").and_then(first));
    dir.ok_or_else(|| {
        AdminError::Usage(
            "Neither metadata.log.dir nor log.dirs were found. Is this a valid controller \
             configuration file?"
                .to_owned(),
        )
    })
}

fn directory_id(directory: &Path) -> Result<Uuid, AdminError> {
    let path = directory.join(META_PROPERTIES);
    let text = args::read_text(&path, META_PROPERTIES_BYTES_MAX).map_err(|e| {
        let directory = directory.display();
        AdminError::Usage(format!("Unable to read meta.properties from {directory}: {e}"))
    })?;
    let found = MetaProperties::parse(&text).map_err(AdminError::Usage)?;
    found.directory_id.ok_or_else(|| {
        AdminError::Usage(format!("No directory id found in {}", directory.display()))
    })
}

/// The controller listeners as others reach them: advertised, or else as they are bound.
fn controller_listeners(
    properties: &BTreeMap<String, String>,
) -> Result<Vec<QuorumListener>, AdminError> {
    let mut known: BTreeMap<String, QuorumListener> = BTreeMap::new();
    for key in ["listeners", "advertised.listeners"] {
        let list = properties.get(key).map(String::as_str).unwrap_or_default();
        for text in list.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let listener = listener(text).map_err(|e| AdminError::Usage(format!("{key}: {e}")))?;
            known.insert(listener.name.clone(), listener);
        }
    }
    let names = properties.get("controller.listener.names").ok_or_else(|| {
        AdminError::Usage(
            "controller.listener.names was not found. Is this a valid controller configuration \
             file?"
                .to_owned(),
        )
    })?;
    let find = |name: &str| {
        let name = name.trim().to_uppercase();
        let found = known.get(&name).cloned();
        found.ok_or_else(|| {
            let text = format!("Cannot find information about controller listener name: {name}");
            AdminError::Usage(text)
        })
    };
    names.split(',').map(find).collect()
}

fn listener(text: &str) -> Result<QuorumListener, String> {
    let (name, rest) =
        text.split_once("://").ok_or_else(|| format!("\"{text}\" is not NAME://host:port"))?;
    let (host, port) = parse_host_port(rest)?;
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    Ok(QuorumListener { name: name.to_uppercase(), host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_controller_comes_from_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let id = Uuid([9; 16]);
        let meta = MetaProperties::new("c", crate::base::NodeId(4), id).text(0);
        std::fs::write(dir.path().join(META_PROPERTIES), meta).unwrap();
        let mut file = BTreeMap::from(
            [
                ("node.id", "4"),
                ("process.roles", "controller"),
                ("listeners", "CONTROLLER://:9095"),
                ("controller.listener.names", "CONTROLLER"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        let refused = |file: &BTreeMap<String, String>| NewController::of(file).unwrap_err();
        assert!(refused(&file).to_string().starts_with("Neither metadata.log.dir nor log.dirs"));
        file.insert("log.dirs".to_owned(), dir.path().display().to_string());
        assert_eq!(
            NewController::of(&file).unwrap().to_string(),
            format!(
                "controller 4 with directory id {id} and endpoints: CONTROLLER://localhost:9095"
            )
        );
        file.insert("advertised.listeners".to_owned(), "CONTROLLER://[::1]:7".to_owned());
        assert!(NewController::of(&file).unwrap().to_string().ends_with("CONTROLLER://[::1]:7"));
        file.insert("process.roles".to_owned(), "broker".to_owned());
        assert!(refused(&file).to_string().starts_with("process.roles did not contain"));
    }
}
