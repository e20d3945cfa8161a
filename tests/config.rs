//! The generated page of configuration keys is fresh; `UPDATE=1` writes it anew. The files that are
//! shipped in `config/` load without a warning.

use std::fs;

use vltava::config::{ServerConfig, Sources, docs};

#[test]
fn the_page_of_keys_is_fresh() {
    let page = docs::markdown();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all("docs").unwrap();
        fs::write("docs/config.md", &page).unwrap();
    }
    let stored = fs::read_to_string("docs/config.md").unwrap_or_default();
    assert!(stored == page, "docs/config.md is stale; run UPDATE=1 cargo test --test config");
}

#[test]
fn shipped_files_load_without_a_warning() {
    let files = ["server", "kraft/server", "kraft/broker", "kraft/controller"];
    for path in files.map(|f| format!("config/{f}.properties")) {
        let text = fs::read_to_string(&path).unwrap();
        let sources = Sources { path: &path, text: &text, ..Sources::default() };
        let (config, warnings) = ServerConfig::load(&sources).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(warnings, Vec::<String>::new(), "{path}");
        assert!(config.not_built_yet().is_empty(), "{path}");
    }
}
