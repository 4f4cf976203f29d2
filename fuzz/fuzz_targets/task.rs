//! A task file with its items in it: it becomes a task or an error with a line. No other file is read.
#![no_main]
use gently::eval::Task;
use gently::eval::yaml::{Node, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(Node { value: Value::Map(entries), .. }) = Node::parse(text) else { return };
    if entries.iter().any(|e| ["data", "dataset_path", "fewshot_data"].contains(&e.key.as_str())) {
        return;
    }
    if let Ok(task) = Task::parse(text, "fuzz.yaml".as_ref()) {
        assert!(!task.is_empty());
        let _ = task.measures();
    }
});
