//! A client for the admin tools: finds a node that answers, agrees on versions, asks, and tries
//! again where that can help (`KafkaAdminClient`). Every tool asks a few questions and ends, so
//! one connection at a time is enough. Uses `wire` and `net`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::time::Instant;

use crate::{
    base::ErrorCode,
    config::{endpoint, properties},
    net::{NetError, PeerClient, PeerConfig},
    wire::{
        Request,
        api::{
            metadata::{DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse},
            versions::{ApiVersionsRequest, ApiVersionsResponse},
        },
        frame::{self, ApiKey},
    },
};

/// Longest file of properties, in bytes.
const PROPERTIES_BYTES_MAX: u64 = 1024 * 1024;
/// What the tools are known by to the server (KIP-511).
const SOFTWARE: &str = "vltava";

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// No node could be asked in time.
    #[error("Timed out waiting for a node assignment. Call: {call}. Last: {last}")]
    NoNode {
        /// What was asked.
        call: ApiKey,
        /// What went wrong last.
        last: String,
    },
    /// The node does not know the API, or no version of it that this tool does.
    #[error("The node does not support {0}")]
    Unsupported(ApiKey),
    /// The answer is an error.
    #[error("{}", .message.clone().unwrap_or_else(|| .code.name().to_owned()))]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// The server's text.
        message: Option<String>,
    },
    /// What the user gave cannot be used.
    #[error("{0}")]
    Usage(String),
}

impl AdminError {
    /// The text with the name of Java's exception in front, as tools print it that wait for an
    /// answer's future.
    pub(super) fn with_class(&self) -> String {
        let class = match self {
            Self::NoNode { .. } => "Timeout".to_owned(),
            Self::Unsupported(_) => "UnsupportedVersion".to_owned(),
            Self::Refused { code, .. } => match code {
                ErrorCode::RequestTimedOut => "Timeout".to_owned(),
                ErrorCode::TopicAlreadyExists => "TopicExists".to_owned(),
                ErrorCode::UnknownServerError => "UnknownServer".to_owned(),
                ErrorCode::ClusterAuthorizationFailed => "ClusterAuthorization".to_owned(),
                code => format!("{code:?}"),
            },
            Self::Usage(text) => return text.clone(),
        };
        format!("org.apache.kafka.common.errors.{class}Exception: {self}")
    }

    /// An error that an answer carries, if it carries one.
    pub(super) fn check(code: ErrorCode, message: Option<String>) -> Result<(), Self> {
        match code {
            ErrorCode::None => Ok(()),
            code => Err(Self::Refused { code, message }),
        }
    }
}

/// What `--bootstrap-server` or `--bootstrap-controller` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bootstrap {
    /// Brokers.
    Servers(String),
    /// Controllers.
    Controllers(String),
}

/// Properties of a client (`--command-config`), of which these count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientProperties {
    /// The file's keys and values.
    pub(super) all: BTreeMap<String, String>,
    client_id: String,
    request_timeout: Duration,
    api_timeout: Duration,
    retry_backoff: Duration,
}

impl ClientProperties {
    /// Reads the file, if one is given.
    ///
    /// # Errors
    /// One line: the file cannot be read, or a value is none.
    pub(super) fn read(file: Option<&Path>) -> Result<Self, String> {
        let text = file.map(|f| super::args::read_text(f, PROPERTIES_BYTES_MAX)).transpose()?;
        let entries = properties::parse(text.as_deref().unwrap_or_default());
        let entries = entries.map_err(|e| e.to_string())?;
        Self::of(entries.into_iter().map(|e| (e.key, e.value)).collect())
    }

    fn of(all: BTreeMap<String, String>) -> Result<Self, String> {
        let ms = |key: &str, default: u64| match all.get(key) {
            None => Ok(Duration::from_millis(default)),
            Some(text) => text.trim().parse().map(Duration::from_millis).map_err(|_| {
                format!("Invalid value {text} for configuration {key}: Not a number of ms")
            }),
        };
        let protocol = all.get("security.protocol").map_or("PLAINTEXT", |p| p.trim());
        if protocol != "PLAINTEXT" {
            return Err(format!(
                "Invalid value {protocol} for configuration security.protocol: this tool speaks \
                 PLAINTEXT only"
            ));
        }
        Ok(Self {
            client_id: all.get("client.id").cloned().unwrap_or_else(|| "adminclient-1".to_owned()),
            request_timeout: ms("request.timeout.ms", 30_000)?,
            api_timeout: ms("default.api.timeout.ms", 60_000)?,
            retry_backoff: ms("retry.backoff.ms", 100)?,
            all,
        })
    }
}

/// A connection, and the versions that its peer serves.
#[derive(Debug)]
struct Connection {
    peer: PeerClient,
    versions: ApiVersionsResponse,
}

/// The client.
#[derive(Debug)]
pub(super) struct Admin {
    bootstrap: Vec<(String, u16)>,
    /// Whether controllers are spoken to, not brokers.
    controllers: bool,
    properties: ClientProperties,
    open: Option<Connection>,
    /// The node to turn to, where an answer named it.
    next: Option<(String, u16)>,
    tried: usize,
    correlation_id: i32,
}

impl Admin {
    /// A client that has asked nothing yet.
    ///
    /// # Errors
    /// One line: an address is none.
    pub(super) fn new(to: &Bootstrap, properties: ClientProperties) -> Result<Self, AdminError> {
        let (key, text, controllers) = match to {
            Bootstrap::Servers(text) => ("bootstrap.servers", text, false),
            Bootstrap::Controllers(text) => ("bootstrap.controllers", text, true),
        };
        let addresses = text.split(',').map(str::trim).filter(|t| !t.is_empty());
        let addresses: Result<Vec<_>, String> = addresses.map(endpoint::parse_reachable).collect();
        let bootstrap =
            addresses.map_err(|e| AdminError::Usage(format!("Invalid url in {key}: {e}")))?;
        if bootstrap.is_empty() {
            let text = format!("No resolvable bootstrap urls given in {key}");
            return Err(AdminError::Usage(text));
        }
        let (open, next) = (None, None);
        Ok(Self { bootstrap, controllers, properties, open, next, tried: 0, correlation_id: 0 })
    }

    /// Whether controllers are spoken to, not brokers.
    pub(super) fn speaks_to_controllers(&self) -> bool {
        self.controllers
    }

    /// Turns to another node with the next question.
    pub(super) fn turn_to(&mut self, host: &str, port: u16) {
        self.next = Some((host.to_owned(), port));
        self.open = None;
    }

    /// Asks the node at hand. If `error` finds in the answer that it is not the active controller,
    /// that one is looked for and asked; a node that cannot be reached gives way to the next.
    ///
    /// # Errors
    /// See [`AdminError`]. Other errors in the answer are the caller's.
    pub(super) async fn ask<R: Request>(
        &mut self,
        request: &R,
        error: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, AdminError> {
        let deadline = Instant::now() + self.properties.api_timeout;
        loop {
            let last = match self.attempt(request).await {
                Ok(response) => {
                    let code = error(&response);
                    let moved =
                        matches!(code, ErrorCode::NotController | ErrorCode::NotLeaderOrFollower);
                    if !moved {
                        return Ok(response);
                    }
                    if self.controllers {
                        self.find_active_controller().await;
                    }
                    code.to_string()
                }
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Network(e)) => {
                    (self.open, self.next) = (None, None);
                    e.to_string()
                }
            };
            let again = Instant::now() + self.properties.retry_backoff;
            if again >= deadline {
                return Err(AdminError::NoNode { call: R::KEY, last });
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// Asks a controller who the active one is, and turns to it.
    async fn find_active_controller(&mut self) {
        let request = DescribeClusterRequest { endpoint_type: 2, ..Default::default() };
        let Ok(answer) = self.attempt(&request).await else {
            self.open = None;
            return;
        };
        let active = answer.brokers.iter().find(|b| b.broker_id == answer.controller_id);
        match active.and_then(|b| Some((b, u16::try_from(b.port).ok()?))) {
            Some((node, port)) => self.turn_to(&node.host, port),
            None => self.open = None,
        }
    }

    async fn attempt<R: Request>(&mut self, request: &R) -> Result<R::Response, Failure> {
        let connection = match self.open.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let connection = self.open.insert(connection);
        let version = common_version(R::KEY, &connection.versions);
        let version = version.ok_or(Failure::Final(AdminError::Unsupported(R::KEY)))?;
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let (id, client) = (self.correlation_id, self.properties.client_id.as_str());
        call(connection, request, version, (id, client)).await
    }

    /// Connects to the node that is next: the one that was named, or the next of the bootstrap
    /// list, and asks it what it serves.
    async fn connect(&mut self) -> Result<Connection, Failure> {
        let address = self.next.take().or_else(|| {
            let at = self.bootstrap.get(self.tried % self.bootstrap.len().max(1)).cloned();
            self.tried += 1;
            at
        });
        let (host, port) = address.unwrap_or_default();
        let config = PeerConfig {
            request_timeout: self.properties.request_timeout,
            ..PeerConfig::default()
        };
        let peer = PeerClient::connect(&host, port, &config).await.map_err(Failure::Network)?;
        let mut connection = Connection { peer, versions: ApiVersionsResponse::default() };
        let request = ApiVersionsRequest {
            client_software_name: SOFTWARE.to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let as_ = (0, self.properties.client_id.as_str());
        let versions = call(&mut connection, &request, 3, as_).await?;
        AdminError::check(versions.error_code, None).map_err(Failure::Final)?;
        connection.versions = versions;
        Ok(connection)
    }

    /// What the node at hand serves; connects if none is at hand.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub(super) async fn versions(&mut self) -> Result<ApiVersionsResponse, AdminError> {
        let request = ApiVersionsRequest {
            client_software_name: SOFTWARE.to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let answer = self.ask(&request, |r| r.error_code).await?;
        AdminError::check(answer.error_code, None)?;
        Ok(answer)
    }

    /// DescribeCluster, of the kind of node that is spoken to.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub(super) async fn describe_cluster(
        &mut self,
        include_fenced_brokers: bool,
    ) -> Result<DescribeClusterResponse, AdminError> {
        let request = DescribeClusterRequest {
            endpoint_type: if self.controllers { 2 } else { 1 },
            include_fenced_brokers,
            ..Default::default()
        };
        let answer = self.ask(&request, |r| r.error_code).await?;
        AdminError::check(answer.error_code, answer.error_message.clone())?;
        Ok(answer)
    }

    /// Turns to `node`.
    ///
    /// # Errors
    /// `Usage` if its port is none.
    pub(super) fn turn_to_node(&mut self, node: &DescribeClusterBroker) -> Result<(), AdminError> {
        let port = u16::try_from(node.port)
            .map_err(|_| AdminError::Usage(format!("{} is no port", node.port)))?;
        self.turn_to(&node.host, port);
        Ok(())
    }
}

/// Why one attempt failed.
enum Failure {
    /// Trying again, or another node, can help.
    Network(NetError),
    Final(AdminError),
}

fn common_version(key: ApiKey, served: &ApiVersionsResponse) -> Option<i16> {
    if key == ApiKey::ApiVersions {
        return Some(3);
    }
    let theirs = served.api_keys.iter().find(|k| k.api_key == key.code())?;
    let version = theirs.max_version.min(key.max_version());
    (version >= theirs.min_version.max(key.min_version())).then_some(version)
}

async fn call<R: Request>(
    connection: &mut Connection,
    request: &R,
    version: i16,
    (correlation_id, client_id): (i32, &str),
) -> Result<R::Response, Failure> {
    let cannot =
        |e: &dyn std::fmt::Display| Failure::Final(AdminError::Usage(format!("{}: {e}", R::KEY)));
    let frame = frame::encode_request(correlation_id, Some(client_id), request, version);
    let frame = frame.map_err(|e| cannot(&e))?;
    let answer = connection.peer.call(frame).await.map_err(Failure::Network)?;
    let (_, response) =
        frame::decode_response::<R::Response>(&answer, version).map_err(|e| cannot(&e))?;
    Ok(response)
}

/// Runs a tool's questions to their end.
///
/// # Errors
/// Those of `questions`; or one line if the system refuses a runtime.
pub(super) fn run<T>(
    questions: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, AdminError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| AdminError::Usage(format!("the system refuses: {e}")))?;
    runtime.block_on(questions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::api::versions::ApiVersion;

    #[test]
    fn versions_meet_in_the_middle() {
        let served = |min_version, max_version| ApiVersionsResponse {
            api_keys: vec![ApiVersion { api_key: 60, min_version, max_version }],
            ..Default::default()
        };
        let meet = |min, max| common_version(ApiKey::DescribeCluster, &served(min, max));
        assert_eq!(
            [meet(0, 9), meet(0, 1), meet(2, 3), meet(3, 4)],
            [Some(2), Some(1), Some(2), None]
        );
        assert_eq!(common_version(ApiKey::Metadata, &served(0, 1)), None);
    }

    #[test]
    fn properties_that_cannot_be_served_are_refused() {
        let of = |key: &str, value: &str| {
            ClientProperties::of(BTreeMap::from([(key.to_owned(), value.to_owned())]))
        };
        assert!(of("security.protocol", "SSL").unwrap_err().contains("security.protocol"));
        assert!(of("request.timeout.ms", "soon").unwrap_err().contains("request.timeout.ms"));
        assert_eq!(of("client.id", "me").unwrap().client_id, "me");
    }

    #[test]
    fn addresses_are_checked_before_anything_is_asked() {
        let new = |text: &str| {
            Admin::new(&Bootstrap::Servers(text.to_owned()), ClientProperties::read(None).unwrap())
        };
        assert!(new("").is_err());
        assert!(new("host").is_err());
        assert_eq!(new("a:1, b:2").unwrap().bootstrap.len(), 2);
    }
}
