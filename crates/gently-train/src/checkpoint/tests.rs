use super::*;

fn write(folder: &Path) -> Result<()> {
    std::fs::write(folder.join("model.safetensors"), vec![7u8; 3000]).unwrap();
    std::fs::write(folder.join("config.json"), b"{}").unwrap();
    Ok(())
}

fn run() -> (tempfile::TempDir, Checkpoints) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::of_run(folder.path());
    (folder, checkpoints)
}

fn names(checkpoints: &Checkpoints) -> Vec<String> {
    let mut names = checkpoints.entries().unwrap();
    names.sort();
    names
}

#[test]
fn a_saved_checkpoint_verifies_and_carries_its_state() {
    let (_folder, checkpoints) = run();
    let (path, bytes) = checkpoints.save(4, &vec![0.1f64, 1.0 / 3.0], write).unwrap();
    let on_disk: u64 = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(bytes + 16, on_disk, "DONE holds 16 digits");
    let good = checkpoints.verify(4).unwrap();
    let state: Vec<f64> = serde_json::from_value(good.state).unwrap();
    assert_eq!(state, [0.1, 1.0 / 3.0]);
    assert_eq!(checkpoints.latest().unwrap(), Some(path));
}

#[test]
fn a_full_disk_leaves_the_last_good_one_and_nothing_else() {
    for file in ["model.safetensors", "config.json", STATE_FILE, DONE_FILE] {
        let (_folder, checkpoints) = run();
        checkpoints.save(4, &(), write).unwrap();
        *checkpoints.fault.0.lock().unwrap() = Some(file);
        let error = checkpoints.save(8, &(), write).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("step-8") && text.contains("step-4"), "{file}: {text}");
        assert!(error.hint().unwrap().contains("space"), "{file}");
        assert_eq!(names(&checkpoints), ["step-4"], "{file}");
        checkpoints.verify(4).unwrap();
        *checkpoints.fault.0.lock().unwrap() = None;
        checkpoints.save(8, &(), write).unwrap();
    }
}

#[test]
fn an_error_while_writing_leaves_nothing() {
    let (_folder, checkpoints) = run();
    let error = checkpoints
        .save(8, &(), |folder| {
            std::fs::write(folder.join("part"), b"x").unwrap();
            Err(Error::NoGradient { tensor: "w".into() })
        })
        .unwrap_err();
    assert!(error.to_string().contains("step-8"), "{error}");
    assert!(names(&checkpoints).is_empty());
}

#[test]
fn damage_is_named_and_the_one_before_is_taken() {
    type Harm = fn(&Path);
    let damage: [(&str, Harm); 5] = [
        ("model.safetensors", |p| flip(&p.join("model.safetensors"))),
        ("config.json", |p| std::fs::write(p.join("config.json"), b"").unwrap()),
        ("config.json", |p| std::fs::remove_file(p.join("config.json")).unwrap()),
        (STATE_FILE, |p| flip(&p.join(STATE_FILE))),
        (STATE_FILE, |p| flip(&p.join(DONE_FILE))),
    ];
    for (file, harm) in damage {
        let (_folder, checkpoints) = run();
        checkpoints.save(4, &1, write).unwrap();
        checkpoints.save(8, &2, write).unwrap();
        harm(&checkpoints.path(8));
        let newest = checkpoints.newest().unwrap();
        assert_eq!(newest.good.unwrap().step, 4);
        assert_eq!(newest.damaged.len(), 1);
        let text = newest.damaged[0].to_string();
        assert!(text.contains(file) && text.contains("step-8"), "{text}");
        assert_eq!(names(&checkpoints), ["step-4", "step-8"], "to look moves nothing");
        checkpoints.set_aside_after(4).unwrap();
        assert_eq!(names(&checkpoints), ["damaged-step-8", "step-4"]);
        assert_eq!(checkpoints.steps().unwrap(), [4]);
        checkpoints.save(8, &2, write).unwrap();
        harm(&checkpoints.path(8));
        harm(&checkpoints.path(4));
        let text = checkpoints.newest().unwrap_err().to_string();
        assert!(text.contains("step-8"), "{text}");
        assert_eq!(checkpoints.steps().unwrap(), [4, 8]);
        // Training on from an older one replaces the damaged one.
        checkpoints.save(8, &3, write).unwrap();
        assert_eq!(checkpoints.newest().unwrap().good.unwrap().state, 3);
    }
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_a_killed_process_left_is_swept_and_never_loaded() {
    let (_folder, checkpoints) = run();
    checkpoints.save(4, &(), write).unwrap();
    checkpoints.save(8, &(), write).unwrap();
    std::fs::remove_file(checkpoints.path(8).join(DONE_FILE)).unwrap();
    std::fs::create_dir(checkpoints.root.join(".step-12.tmp")).unwrap();
    std::fs::create_dir(checkpoints.root.join("mine")).unwrap();
    assert_eq!(checkpoints.newest().unwrap().good.unwrap().step, 4);
    checkpoints.sweep().unwrap();
    assert_eq!(names(&checkpoints), ["mine", "step-4"]);
}

#[test]
fn what_somebody_else_put_there_stays() {
    let (_folder, checkpoints) = run();
    for step in [4, 8, 12] {
        checkpoints.save(step, &(), write).unwrap();
        std::fs::remove_file(checkpoints.path(step).join(DONE_FILE)).unwrap();
    }
    // A model without the trainer's files, and one with a file of somebody's own.
    std::fs::remove_file(checkpoints.path(4).join(STATE_FILE)).unwrap();
    std::fs::write(checkpoints.path(8).join("notes.txt"), b"mine").unwrap();
    std::fs::write(checkpoints.path(12).join("DONE.tmp"), b"half").unwrap();
    std::fs::create_dir(checkpoints.path(16)).unwrap();
    checkpoints.sweep().unwrap();
    assert_eq!(names(&checkpoints), ["step-16", "step-4", "step-8"]);
    checkpoints.save(4, &(), write).unwrap();
    checkpoints.save(8, &(), write).unwrap();
    assert_eq!(names(&checkpoints), ["kept-1-step-4", "kept-1-step-8", "step-16", "step-4", "step-8"]);
    assert!(checkpoints.root.join("kept-1-step-4").join("model.safetensors").is_file());
    assert_eq!(checkpoints.steps().unwrap(), [4, 8]);
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let (_folder, checkpoints) = run();
    for step in [2, 4, 6, 8, 10] {
        checkpoints.save(step, &(), write).unwrap();
        checkpoints.prune(2, Some(4)).unwrap();
    }
    assert_eq!(checkpoints.steps().unwrap(), [4, 8, 10]);
    checkpoints.prune(1, None).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [10]);
}
