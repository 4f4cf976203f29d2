//! A `config.json`: what is believed of it is a possible model.
#![no_main]
use gently_models::families::read_config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    if let Ok((layout, config)) = read_config(&json, "fuzz".as_ref()) {
        assert!(config.validate().is_ok());
        let _ = layout.to_json(&config);
    }
});
