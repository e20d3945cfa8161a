//! Keys of authentication, authorisation and TLS.
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, NULL, boolean, class, int, list, long, password, string};

/// Keys of authentication, authorisation and TLS.
pub(super) const KEYS: &[Key] = &[
    list("sasl.enabled.mechanisms", Some("GSSAPI"))
        .distinct()
        .per_broker()
        .doc("SASL mechanisms that a listener accepts."),
    string("sasl.mechanism.inter.broker.protocol", Some("GSSAPI"))
        .per_broker()
        .broker()
        .doc("SASL mechanism between brokers."),
    string("sasl.mechanism.controller.protocol", Some("GSSAPI"))
        .doc("SASL mechanism towards the controllers."),
    password("sasl.jaas.config", NULL)
        .per_broker()
        .doc("JAAS login modules of a listener and mechanism."),
    int("sasl.server.max.receive.size", Some("524288"))
        .doc("Largest message in bytes before authentication is done."),
    class("sasl.server.callback.handler.class", NULL)
        .doc("Java class that checks credentials on the server."),
    class("sasl.client.callback.handler.class", NULL)
        .doc("Java class that answers SASL challenges as a client."),
    class("sasl.login.callback.handler.class", NULL)
        .doc("Java class that obtains SASL credentials."),
    class("sasl.login.class", NULL).doc("Java class that performs the SASL login."),
    long("connections.max.reauth.ms", Some("0")).doc(
        "Longest life, in milliseconds, of an authenticated session before it must \
             authenticate again; 0 for no limit.",
    ),
    class(
        "principal.builder.class",
        Some("org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder"),
    )
    .per_broker()
    .doc("Java class that makes a principal of an authenticated connection."),
    string("authorizer.class.name", Some("")).doc(
        "Authorizer; empty for none, \
             `org.apache.kafka.metadata.authorizer.StandardAuthorizer` for the built-in one.",
    ),
    string("super.users", NULL).doc("Principals that may do everything, separated by `;`."),
    boolean("allow.everyone.if.no.acl.found", Some("false"))
        .doc("Whether a resource without any ACL is open to everyone."),
    string("ssl.keystore.location", NULL)
        .per_broker()
        .doc("File of the node's own certificate and key."),
    password("ssl.keystore.password", NULL).per_broker().doc("Password of the keystore."),
    string("ssl.keystore.type", Some("JKS"))
        .per_broker()
        .doc("Format of the keystore: `JKS`, `PKCS12` or `PEM`."),
    password("ssl.keystore.key", NULL).per_broker().doc("Private key as PEM text."),
    password("ssl.keystore.certificate.chain", NULL)
        .per_broker()
        .doc("Certificate chain as PEM text."),
    password("ssl.key.password", NULL).per_broker().doc("Password of the private key."),
    string("ssl.truststore.location", NULL)
        .per_broker()
        .doc("File of the certificates that are trusted."),
    password("ssl.truststore.password", NULL).per_broker().doc("Password of the truststore."),
    string("ssl.truststore.type", Some("JKS"))
        .per_broker()
        .doc("Format of the truststore: `JKS`, `PKCS12` or `PEM`."),
    password("ssl.truststore.certificates", NULL)
        .per_broker()
        .doc("Trusted certificates as PEM text."),
    string("ssl.client.auth", Some("none"))
        .one_of(&["required", "requested", "none"])
        .per_broker()
        .doc("Whether clients must, may or need not show a certificate."),
    string("ssl.protocol", Some("TLSv1.3")).per_broker().doc("TLS version to prefer."),
    list("ssl.enabled.protocols", Some("TLSv1.2,TLSv1.3"))
        .per_broker()
        .doc("TLS versions that are accepted."),
    list("ssl.cipher.suites", Some(""))
        .per_broker()
        .doc("TLS cipher suites that are accepted; empty for the library's choice."),
    string("ssl.endpoint.identification.algorithm", Some("https")).per_broker().doc(
        "How a server's name is checked against its certificate; empty switches the check \
             off.",
    ),
    string("ssl.principal.mapping.rules", Some("DEFAULT"))
        .doc("Rules that turn a certificate's name into a principal."),
    string("ssl.provider", NULL).per_broker().doc("Java security provider of TLS."),
    string("ssl.keymanager.algorithm", Some("SunX509"))
        .per_broker()
        .doc("Java algorithm that picks the key."),
    string("ssl.trustmanager.algorithm", Some("PKIX"))
        .per_broker()
        .doc("Java algorithm that checks trust."),
    string("ssl.secure.random.implementation", NULL)
        .per_broker()
        .doc("Java source of randomness of TLS."),
    class("ssl.engine.factory.class", NULL).per_broker().doc("Java class that makes TLS engines."),
    boolean("ssl.allow.dn.changes", Some("false"))
        .doc("Whether a renewed keystore may carry another distinguished name."),
    boolean("ssl.allow.san.changes", Some("false"))
        .doc("Whether a renewed keystore may carry other alternative names."),
    password("delegation.token.secret.key", NULL)
        .doc("Secret with which delegation tokens are signed."),
    long("delegation.token.max.lifetime.ms", Some("604800000"))
        .min(1)
        .doc("Longest life of a delegation token in milliseconds."),
    long("delegation.token.expiry.time.ms", Some("86400000"))
        .min(1)
        .doc("Time in milliseconds until a delegation token must be renewed."),
    long("delegation.token.expiry.check.interval.ms", Some("3600000"))
        .min(1)
        .doc("Pause, in milliseconds, between looks for expired delegation tokens."),
];
