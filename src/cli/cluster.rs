//! `kafka-cluster`: the cluster's id, the removal of a broker that is gone for good, the endpoints
//! of its nodes (`ClusterTool`).

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use super::{
    admin::{self, Admin, AdminError, Bootstrap, ClientProperties},
    args, fail, print,
};
use crate::wire::api::{
    cluster::UnregisterBrokerRequest,
    metadata::{DescribeClusterBroker, DescribeClusterResponse},
};

/// The Kafka cluster tool.
#[derive(Debug, Parser)]
#[command(name = "kafka-cluster", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get information about the ID of a cluster.
    ClusterId(Client),
    /// Unregister a broker.
    Unregister(Unregister),
    /// List endpoints.
    ListEndpoints(ListEndpoints),
}

#[derive(Debug, Args)]
struct Client {
    #[command(flatten)]
    connection: Connection,
    /// (DEPRECATED) The same as --command-config.
    #[arg(long, value_name = "CONFIG", conflicts_with = "command_config")]
    config: Option<PathBuf>,
    /// A property file with the client's configuration.
    #[arg(short = 'c', long, value_name = "COMMAND_CONFIG")]
    command_config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Connection {
    /// A list of host:port pairs of brokers.
    #[arg(short = 'b', long, value_name = "BOOTSTRAP_SERVER")]
    bootstrap_server: Option<String>,
    /// A list of host:port pairs of controllers.
    #[arg(short = 'C', long, value_name = "BOOTSTRAP_CONTROLLER")]
    bootstrap_controller: Option<String>,
}

#[derive(Debug, Args)]
struct Unregister {
    #[command(flatten)]
    client: Client,
    /// The ID of the broker to unregister.
    #[arg(short = 'i', long, value_name = "ID", allow_negative_numbers = true)]
    id: i32,
}

#[derive(Debug, Args)]
struct ListEndpoints {
    #[command(flatten)]
    client: Client,
    /// Whether to include fenced brokers when listing broker endpoints.
    #[arg(long)]
    include_fenced_brokers: bool,
}

/// Runs the tool.
pub(super) fn run(words: &[String]) -> ExitCode {
    let arguments: Arguments = match args::parse(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match carry_out(&arguments.command) {
        Ok(text) => print(&text),
        Err(e) => fail(&e.with_class()),
    }
}

fn carry_out(command: &Command) -> Result<String, AdminError> {
    let client = match command {
        Command::ClusterId(client) => client,
        Command::Unregister(u) => &u.client,
        Command::ListEndpoints(l) => &l.client,
    };
    let mut out = String::new();
    if client.config.is_some() {
        out += "Option --config has been deprecated and will be removed in a future version. Use \
                --command-config instead.\n";
    }
    let mut admin = client.admin()?;
    out += &match command {
        Command::ClusterId(_) => {
            let cluster = admin::run(admin.describe_cluster(false))?;
            format!("Cluster ID: {}\n", cluster.cluster_id)
        }
        Command::Unregister(u) => unregister(&mut admin, u.id)?,
        Command::ListEndpoints(l) => {
            let controllers = admin.speaks_to_controllers();
            if l.include_fenced_brokers && controllers {
                return Err(AdminError::Usage(
                    "The option --include-fenced-brokers is only supported with \
                     --bootstrap-server option"
                        .to_owned(),
                ));
            }
            let cluster = admin::run(admin.describe_cluster(l.include_fenced_brokers))?;
            endpoints(&cluster, controllers)
        }
    };
    Ok(out)
}

impl Client {
    fn admin(&self) -> Result<Admin, AdminError> {
        let file = self.command_config.as_deref().or(self.config.as_deref());
        let properties = ClientProperties::read(file).map_err(AdminError::Usage)?;
        let bootstrap = match &self.connection {
            Connection { bootstrap_controller: Some(text), .. } => {
                Bootstrap::Controllers(text.clone())
            }
            other => Bootstrap::Servers(other.bootstrap_server.clone().unwrap_or_default()),
        };
        Admin::new(&bootstrap, properties)
    }
}

fn unregister(admin: &mut Admin, broker_id: i32) -> Result<String, AdminError> {
    let request = UnregisterBrokerRequest { broker_id };
    match admin::run(admin.ask(&request, |r| r.error_code)) {
        Ok(answer) => {
            AdminError::check(answer.error_code, answer.error_message)?;
            Ok(format!("Broker {broker_id} is no longer registered.\n"))
        }
        Err(AdminError::Unsupported(_)) => {
            Ok("The target cluster does not support the broker unregistration API.\n".to_owned())
        }
        Err(e) => Err(e),
    }
}

fn endpoints(cluster: &DescribeClusterResponse, controllers: bool) -> String {
    let nodes = &cluster.brokers;
    let length = |text: &str| text.chars().count();
    let host_width = nodes.iter().map(|n| length(&n.host)).max().unwrap_or(100);
    let racks = nodes.iter().filter_map(|n| n.rack.as_deref());
    let rack_width = racks.map(length).max().unwrap_or(10);
    let line = |id: &str, host: &str, port: &str, rack: &str, state: &str, kind: &str| {
        let state = if controllers { String::new() } else { format!("{state:<10} ") };
        format!("{id:<10} {host:<host_width$} {port:<10} {rack:<rack_width$} {state}{kind:<15}\n")
    };
    let kind = if controllers { "controller" } else { "broker" };
    let each = nodes.iter().map(|n: &DescribeClusterBroker| {
        let state = if n.is_fenced { "fenced" } else { "unfenced" };
        // Java prints a rack that is not there as "null".
        let rack = n.rack.as_deref().unwrap_or("null");
        line(&n.broker_id.to_string(), &n.host, &n.port.to_string(), rack, state, kind)
    });
    let head = line("ID", "HOST", "PORT", "RACK", "STATE", "ENDPOINT_TYPE");
    std::iter::once(head).chain(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_a_table_of_fixed_columns() {
        let broker = |broker_id, rack: Option<&str>| DescribeClusterBroker {
            broker_id,
            host: "localhost".to_owned(),
            port: 9092,
            rack: rack.map(str::to_owned),
            is_fenced: broker_id == 2,
        };
        let cluster = DescribeClusterResponse {
            brokers: vec![broker(1, Some("a-long-rack")), broker(2, None)],
            ..Default::default()
        };
        let expected = "\
ID         HOST      PORT       RACK        STATE      ENDPOINT_TYPE  \n\
1          localhost 9092       a-long-rack unfenced   broker         \n\
2          localhost 9092       null        fenced     broker         \n";
        assert_eq!(endpoints(&cluster, false), expected);
        assert!(
            endpoints(&cluster, true)
                .starts_with("ID         HOST      PORT       RACK        ENDPOINT_TYPE  \n1 ")
        );
    }
}
