//! The operator's configuration file.

use mdof::control::config::{Config, ConfigError};

/// A file is accepted, or refused with a line that it has.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(&text, "file") {
        Ok(config) => assert_eq!(config, Config::parse(&text, "other").expect("once more")),
        Err(ConfigError::Line { line, message, .. }) => {
            let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {message}");
            assert!(!message.is_empty());
        }
        Err(other) => panic!("nothing was read from a file: {other}"),
    }
}
