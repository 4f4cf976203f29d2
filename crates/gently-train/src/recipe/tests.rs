use super::*;

const TINY: &str = "\
[model]
layers = 2
heads = 2
width = 32

[optimizer]
lr = 2e-3   # a person's remark
betas = [
    0.9, 0.95,
]
";

fn tiny() -> Recipe {
    Recipe::parse(TINY, "tiny.toml").unwrap()
}

fn refused(text: &str) -> String {
    Recipe::parse(text, "r.toml").and_then(|r| r.resolve()).unwrap_err().to_string()
}

#[test]
fn every_value_knows_its_source() {
    let mut recipe = tiny();
    recipe.set("train.steps=50").unwrap();
    recipe.set("optimizer.kind=lion").unwrap();
    let resolved = recipe.resolve().unwrap();
    assert_eq!(resolved.config.train.steps, 50);
    assert_eq!(resolved.config.optimizer.kind, OptimizerKind::Lion);
    let source = |key| resolved.source(key).to_string();
    assert_eq!(source("model.layers"), "tiny.toml:2");
    assert_eq!(source("optimizer.betas"), "tiny.toml:8");
    assert_eq!(source("train.steps"), "--set");
    assert_eq!(source("train.batch"), "default");
    assert_eq!(source("optimizer.min_lr"), "optimizer.lr / 10");
    assert_eq!(source("model.context"), "train.block");
    assert_eq!(resolved.config.optimizer.min_lr, Some(2e-4));
}

#[test]
fn families_bring_their_defaults() {
    let mut recipe = tiny();
    recipe.set("model.family=llama").unwrap();
    let resolved = recipe.resolve().unwrap();
    assert_eq!(resolved.source("model.norm").to_string(), "default of llama");
    assert_eq!(resolved.config.model.norm, gently_models::config::NormKind::Rms);
    assert_eq!(resolved.config.model.kv_heads(), 2);
}

#[test]
fn the_written_configuration_reads_back_the_same() {
    let mut recipe = tiny();
    recipe.set(r#"sample.prompts=['a "b"', "\n", "\u007f é"]"#).unwrap();
    recipe.set("sample.every=5").unwrap();
    recipe.set("optimizer.eps=1e-8").unwrap();
    recipe.set("optimizer.schedule=constant").unwrap();
    let resolved = recipe.resolve().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(CONFIG_FILE), resolved.to_toml()).unwrap();
    let again = Recipe::reload(folder.path()).unwrap().resolve().unwrap();
    assert_eq!(again, resolved, "{}", resolved.to_toml());
    again.continues(&resolved).unwrap();
}

#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    let error = Recipe::parse("[model]\nlayer = 3\n", "r.toml").unwrap_err();
    assert_eq!(error.to_string(), "unknown key model.layer (r.toml:2)");
    assert_eq!(error.hint().unwrap(), "did you mean model.layers?");
    let error = tiny().set("optimizer.learning_rate=1").unwrap_err();
    assert!(error.to_string().contains("--set"), "{error}");
    let error = tiny().set("train.lr=1").unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean optimizer.lr?");
    let hint = tiny().set("eval.nonsense=1").unwrap_err().hint().unwrap();
    assert!(hint.starts_with("[eval] has ") && hint.contains("every"), "{hint}");
    let hint = tiny().set("zzz.qqq=1").unwrap_err().hint().unwrap();
    assert!(hint.starts_with("the sections are [model]"), "{hint}");
    assert!(refused("[modle]\nlayers = 1\n").contains("modle.layers"));
    assert!(refused("steps = 4\n").contains("steps"));
    // As large as a recipe may be: many keys, and a long one.
    let many: String = (0..80_000).map(|i| format!("k{i} = 1\n")).collect();
    assert_eq!(refused(&format!("[train]\n{many}")), "unknown key train.k0 (r.toml:2)");
    assert!(refused(&format!("[train]\n{} = 1\n", "k".repeat(1 << 20))).contains("(r.toml:2)"));
}

#[test]
fn nesting_has_a_bottom() {
    for (open, close) in [("[", "]"), ("{a = ", "}")] {
        let deep = format!("[train]\nsteps = {}1{}\n", open.repeat(100_000), close.repeat(100_000));
        assert!(refused(&deep).contains("r.toml"), "{open}");
    }
    assert!(refused(&format!("[{}a]\nsteps = 1\n", "a.".repeat(100_000))).contains("r.toml"));
    assert!(refused(&format!("[train]\n{}a = 1\n", "a.".repeat(100_000))).contains("r.toml"));
}

#[test]
fn values_out_of_range_are_refused_with_their_place() {
    for (text, key) in [
        ("[train]\nbatch = -3\n", "train.batch"),
        ("[train]\nbatch = 0\n", "train.batch"),
        ("[train]\nsteps = 1.5\n", "train.steps"),
        ("[model]\nlayers = -1\n", "model.layers"),
        ("[model]\nheads = 5\nwidth = 32\n", "model.heads"),
        ("[optimizer]\nlr = 0.0\n", "optimizer.lr"),
        ("[optimizer]\nlr = nan\n", "optimizer.lr"),
        // Kernels would take them as 0, as infinity, as 1.
        ("[optimizer]\neps = 1e-46\n", "optimizer.eps"),
        ("[optimizer]\nlr = 1e300\n", "optimizer.lr"),
        ("[optimizer]\nweight_decay = 1e39\n", "optimizer.weight_decay"),
        ("[optimizer]\nbetas = [0.9, 0.99999999]\n", "optimizer.betas"),
        ("[optimizer]\nmomentum = 0.99999999\n", "optimizer.momentum"),
        ("[sample]\ntemperature = 1e39\n", "sample.temperature"),
        ("[model]\nlogit_softcap = 1e300\n", "model.logit_softcap"),
        ("[model]\ndropout = 0.99999999\n", "model.dropout"),
        // Not as if they had not been given.
        ("[optimizer]\nmin_lr = nan\n", "optimizer.min_lr"),
        ("[model]\ndropout = nan\n", "model.dropout"),
        ("[model]\nrope_factors = [1.0, inf]\n", "model.rope_factors"),
        ("[model]\nlayers = 20000\n", "model.layers"),
        ("[train]\nbatch = 1024\nblock = 1024\naccumulate = 512\n", "train.accumulate"),
        ("[optimizer]\nnewton_schulz = 101\n", "optimizer.newton_schulz"),
        ("[optimizer]\nkind = \"adam\"\n", "optimizer.kind"),
        ("[optimizer]\nbetas = [0.9]\n", "optimizer.betas"),
        ("[data]\nval_fraction = 0.9\n", "data.val_fraction"),
        ("[model]\ncontext = 8\n[train]\nblock = 16\n", "train.block"),
        ("[tokenizer]\nkind = \"file\"\n", "tokenizer.path"),
        ("[eval]\nbatches = 4611686018427387904\n", "eval.batches"),
        ("[data]\ndocuments = \"pack\"\nshuffle = false\n", "data.shuffle"),
        ("[sample]\nat_start = true\nprompts = []\n", "sample.prompts"),
    ] {
        let message = refused(text);
        assert!(message.contains(key), "{text:?}: {message}");
    }
    let message = refused("[model]\nheads = 5\nwidth = 32\n");
    assert!(message.contains("r.toml:2"), "{message}");
    // One rule, at both of its ends; and no names of a language's types.
    for layers in [0, 16385] {
        let message = refused(&format!("[model]\nlayers = {layers}\n"));
        assert!(message.ends_with("must be between 1 and 16384"), "{message}");
    }
    for (text, words) in [
        ("[model]\nlayers = -1\n", "a whole number, 0 or more"),
        ("[train]\nsteps = 1.5\n", "a whole number, 0 or more"),
        ("[optimizer]\nlr = \"x\"\n", "a number"),
    ] {
        let message = refused(text);
        assert!(message.ends_with(&format!("expected {words}")), "{message}");
    }
    // What nobody gave has a value all the same.
    let message = refused("[model]\nheads = 2\nwidth = 34\nposition = \"rotary\"\n");
    assert!(message.starts_with("model.head_width = 17 (model.width / model.heads): must be even"), "{message}");
}

#[test]
fn what_has_no_effect_is_refused() {
    for (text, key, needed) in [
        ("[model]\nwindow_skip = 2\n", "model.window_skip", "model.window"),
        ("[model]\nrope_theta = 5e5\n", "model.rope_theta", "rotary"),
        ("[model]\nrotary_width = 8\n", "model.rotary_width", "rotary"),
        ("[model]\nrope_scale = 1.2\n", "model.rope_scale", "rotary"),
        ("[model]\nlocal_rope_theta = 5e5\n", "model.local_rope_theta", "rotary"),
        ("[model]\nposition = \"rotary\"\nlocal_rope_theta = 5e5\n", "model.local_rope_theta", "model.window"),
        ("[tokenizer]\npath = \"gpt2\"\n", "tokenizer.path", "file"),
        ("[optimizer]\nmuon_lr = 0.01\n", "optimizer.muon_lr", "muon"),
        ("[optimizer]\nkind = \"lion\"\nmomentum = 0.9\n", "optimizer.momentum", "muon"),
        ("[optimizer]\ncooldown = 0.2\n", "optimizer.cooldown", "wsd"),
        ("[optimizer]\nschedule = \"constant\"\nmin_lr = 1e-5\n", "optimizer.min_lr", "falls"),
        ("[optimizer]\nschedule = \"constant\"\ndecay_steps = 9\n", "optimizer.decay_steps", "falls"),
        ("[tokenizer]\nvocab = 300\n", "tokenizer.vocab", "bpe"),
        ("[optimizer]\nkind = \"lion\"\neps = 1e-6\n", "optimizer.eps", "adamw"),
        ("[optimizer]\ndecay = \"none\"\nweight_decay = 0.01\n", "optimizer.weight_decay", "all_matrices"),
        ("[sample]\nprompts = [\"a\"]\n", "sample.prompts", "sample.every"),
        ("[sample]\ntokens = 9\n", "sample.tokens", "sample.at_start"),
        ("[sample]\ntemperature = 0.5\n", "sample.temperature", "sample.every"),
        ("[sample]\ntop_k = 5\n", "sample.top_k", "sample.every"),
        ("[sample]\nevery = 5\ntemperature = 0.0\ntop_k = 5\n", "sample.top_k", "sample.temperature above 0"),
        ("[model]\nwindow = 8\nwindow_skip = 1\n", "model.window", "model.window_skip above 1"),
        ("[model]\nwindow = 8\nwindow_skip = 13\n", "model.window_skip", "model.layers"),
        (
            "[model]\nposition = \"rotary\"\nwindow = 8\nlocal_rope_theta = 5e5\nrope_theta = 7e4\n",
            "model.rope_theta",
            "no window",
        ),
        (
            "[model]\nposition = \"rotary\"\nwindow = 8\nlocal_rope_theta = 5e5\nrope_scale = 2.0\n",
            "model.rope_scale",
            "no window",
        ),
        ("[data]\npath = [\"a\"]\nweights = [2.0]\n", "data.weights", "several paths"),
        ("[optimizer]\nschedule = \"wsd\"\ncooldown = 0.0\nmin_lr = 1e-5\n", "optimizer.min_lr", "optimizer.cooldown"),
        ("[spike]\nz = 3.0\n", "spike.z", "spike.skip"),
        ("[spike]\nwindow = 64\n", "spike.window", "spike.skip"),
    ] {
        let message = refused(text);
        let (told, why) = message.split_once(": has no effect without ").unwrap_or_else(|| panic!("{message}"));
        assert!(told.starts_with(key) && told.contains("r.toml:") && why.contains(needed), "{message}");
    }
    // The default says nothing, and a recipe's own setting stays behind where --set chooses otherwise.
    for text in [
        "[optimizer]\nmuon_lr = 0.02\n",
        "[optimizer]\ndecay = \"none\"\nweight_decay = 0.0\n",
        "[optimizer]\nkind = \"lion\"\nbetas = [0.9, 0.98]\n",
        "[sample]\nat_start = true\ntokens = 9\n",
        // Beyond the decay the rate is the lowest.
        "[optimizer]\nschedule = \"wsd\"\ncooldown = 0.0\nmin_lr = 1e-5\ndecay_steps = 100\n",
        "[model]\nposition = \"rotary\"\nwindow = 8\nwindow_skip = 6\nlocal_rope_theta = 5e5\nrope_theta = 7e4\n",
        "[data]\nval_fraction = 0.2\nval_path = [\"v\"]\n",
    ] {
        Recipe::parse(text, "r.toml").unwrap().resolve().unwrap_or_else(|e| panic!("{text:?}: {e}"));
    }
    for (text, set) in [
        ("[sample]\nevery = 9\ntokens = 9\ntop_k = 5\nprompts = [\"a\"]\n", "sample.every=0"),
        ("[sample]\nat_start = true\ntokens = 9\n", "sample.at_start=false"),
        ("[optimizer]\neps = 1e-6\n", "optimizer.kind=lion"),
        ("[optimizer]\nweight_decay = 0.01\n", "optimizer.decay=none"),
        ("[spike]\nskip = true\nz = 3.0\nwindow = 64\n", "spike.skip=false"),
        ("[sample]\nevery = 5\ntop_k = 5\n", "sample.temperature=0"),
        ("[model]\nwindow = 8\nwindow_skip = 6\n", "model.layers=2"),
        ("[data]\nval_path = [\"v\"]\n", "data.val_fraction=0"),
    ] {
        let mut recipe = Recipe::parse(text, "r.toml").unwrap();
        recipe.set(set).unwrap();
        recipe.resolve().unwrap_or_else(|e| panic!("{text:?} with {set}: {e}"));
    }
    // A part that is asked for is not kept where there are texts for validation.
    let mut recipe = Recipe::parse("[data]\nval_path = [\"v\"]\n", "r.toml").unwrap();
    recipe.set("data.val_fraction=0.2").unwrap();
    let message = recipe.resolve().unwrap_err().to_string();
    assert!(message.starts_with("data.val_fraction = 0.2 (--set): has no effect without data.val_path"), "{message}");
    let mut recipe = Recipe::parse("[optimizer]\nkind = \"muon\"\nmuon_lr = 0.01\n", "r.toml").unwrap();
    recipe.resolve().unwrap();
    recipe.set("optimizer.kind=adamw").unwrap();
    let resolved = recipe.resolve().unwrap();
    recipe.set("optimizer.muon_lr=0.03").unwrap();
    assert!(recipe.resolve().is_err());
    // What a run was begun with does not keep it from going on.
    let begun = recipe.resolve_unchecked().unwrap();
    recipe.resolve_after(&begun).unwrap();
    assert!(recipe.resolve_after(&resolved).is_err());
    assert!(refused("[model]\nbidirectional = true\n").starts_with("model.bidirectional"));
}

#[test]
fn a_value_of_a_wrong_type_in_a_run_folder_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(CONFIG_FILE);
    let text = tiny().resolve().unwrap().to_toml().replace("steps = 2000", "steps = \"a\"");
    std::fs::write(&path, &text).unwrap();
    let line = 1 + text.lines().position(|line| line.starts_with("steps = ")).unwrap();
    let error = Recipe::reload(folder.path()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("train.steps = \"a\" ({}:{line})", path.display())), "{error}");
}

#[test]
fn what_cannot_be_read_as_a_recipe_comes_with_a_hint() {
    let error = Recipe::parse("[train]\nsteps = 3\nsteps = 4\n", "r.toml").unwrap_err();
    assert!(error.to_string().starts_with("r.toml:") && error.hint().unwrap().contains("each key once"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"[train]\n# caf\xe9\n").unwrap();
    assert!(Recipe::load(file.path()).unwrap_err().hint().unwrap().contains("UTF-8"));
    let error = tiny().set("=5").unwrap_err();
    assert_eq!(error.to_string(), "--set =5: there is no key before `=`");
    assert_eq!(tiny().set("train.steps").unwrap_err().to_string(), "--set train.steps: there is no `=`");
}

#[test]
fn bad_toml_names_the_line() {
    let message = refused("[train]\nsteps = 3\nbatch = = 4\n");
    assert!(message.contains("r.toml:3"), "{message}");
}

#[test]
fn a_resumed_run_keeps_what_was_set_and_refuses_another_model() {
    let mut first = tiny();
    first.set("train.steps=50").unwrap();
    let saved = first.resolve().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(CONFIG_FILE), saved.to_toml()).unwrap();
    let reloaded = Recipe::reload(folder.path()).unwrap();

    let text = format!("{TINY}\n[train]\nsteps = 10\n");
    let recipe = Recipe::parse(&text, "tiny.toml").unwrap();
    let again = recipe.over(&reloaded).resolve().unwrap();
    assert_eq!(again.config.train.steps, 50, "--set of the first run wins");

    let mut longer = recipe.clone();
    longer.set("train.steps=80").unwrap();
    let longer = longer.over(&reloaded).resolve().unwrap();
    assert_eq!(longer.config.train.steps, 80);
    longer.continues(&saved).unwrap();

    let mut other = recipe;
    other.set("model.width=64").unwrap();
    let error = other.over(&reloaded).resolve().unwrap().continues(&saved).unwrap_err().to_string();
    assert!(error.contains("model.width") && error.contains("32"), "{error}");

    // The key that was given, and not what is worked out from it.
    let refused = |assignment: &str| {
        let mut other = tiny();
        other.set(assignment).unwrap();
        other.over(&reloaded).resolve().unwrap().continues(&saved).unwrap_err().to_string()
    };
    let error = refused("train.block=32");
    assert!(error.starts_with("train.block is 32 (--set), but the run was begun with "), "{error}");
    let error = refused("model.window=3");
    assert_eq!(error, "model.window is 3 (--set), but the run was begun with it unset");
}

#[test]
fn what_was_worked_out_is_worked_out_again_when_a_run_goes_on() {
    let mut first = tiny();
    first.set("train.steps=2000").unwrap();
    let saved = first.resolve().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(CONFIG_FILE), saved.to_toml()).unwrap();
    let reloaded = Recipe::reload(folder.path()).unwrap();
    let again = |set: &[&str]| {
        let mut recipe = tiny();
        for assignment in set {
            recipe.set(assignment).unwrap();
        }
        let resolved = recipe.over(&reloaded).resolve().unwrap();
        resolved.continues(&saved).unwrap();
        resolved
    };
    let longer = again(&["train.steps=4000"]);
    assert_eq!(longer.config.optimizer.decay_steps, Some(4000));
    assert_eq!(longer.source("optimizer.decay_steps").to_string(), "train.steps");
    // Below what was the lowest rate.
    let slower = again(&["optimizer.lr=5e-5"]);
    assert_eq!(slower.config.optimizer.min_lr, Some(5e-5 / 10.0));
    let constant = again(&["optimizer.schedule=constant"]);
    assert_eq!((constant.config.optimizer.min_lr, constant.config.optimizer.decay_steps), (None, None));
    assert_eq!(constant.source("optimizer.min_lr"), Source::Default);
    // What a person gave stays.
    let given = again(&["optimizer.decay_steps=3000", "train.steps=4000"]);
    assert_eq!(given.config.optimizer.decay_steps, Some(3000));
}

#[test]
fn a_saved_value_that_is_out_of_range_now_can_be_replaced() {
    for (saved, instead) in [
        (vec!["eval.batches=4611686018427387904"], "eval.batches=7"),
        (vec!["sample.at_start=true", "sample.prompts=[]"], "sample.prompts=['a']"),
        (vec!["data.documents=pack", "data.shuffle=false"], "data.shuffle=true"),
    ] {
        let mut first = tiny();
        for assignment in saved {
            first.set(assignment).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG_FILE), first.resolve_unchecked().unwrap().to_toml()).unwrap();
        let reloaded = Recipe::reload(folder.path()).unwrap();
        let was = reloaded.resolve_unchecked().unwrap();
        let key = instead.split_once('=').unwrap().0;
        let error = tiny().over(&reloaded).resolve().unwrap_err();
        assert!(matches!(&error, Error::Value { key: k, .. } if k == key), "{error}");
        let mut again = tiny();
        again.set(instead).unwrap();
        again.over(&reloaded).resolve().unwrap().continues(&was).unwrap();
    }
    // Where documents are not packed, their order is the run's own.
    let saved = tiny().resolve().unwrap();
    let mut other = tiny();
    other.set("data.shuffle=false").unwrap();
    let error = other.resolve().unwrap().continues(&saved).unwrap_err();
    assert!(matches!(&error, Error::ConfigMismatch { key, .. } if key == "data.shuffle"), "{error}");
}
