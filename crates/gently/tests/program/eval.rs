//! `gently eval` on a tiny model, and on task files that are wrong.

use crate::run::{fail, succeed, text, train_args};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TASK: &str = "task: sea\noutput_type: multiple_choice\ndata: items.jsonl\ndoc_to_text: '{{q}}'\n\
    doc_to_choice: '{{c}}'\ndoc_to_target: '{{a}}'\n";
const ITEMS: &str = "{\"q\": \"the sea\", \"c\": [\"is\", \"on\"], \"a\": 0}\n\n\
    {\"q\": \"we sail\", \"c\": [\"on\", \"is grey\", \"old\"], \"a\": 0}\n\
    {\"q\": \"a long\", \"c\": [\"night\", \"the\"], \"a\": 1}\n";

#[test]
fn a_model_of_our_own_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (run, out) = (at("run"), at("out"));
    fs::write(at("text.txt"), text()).unwrap();
    succeed(&train_args(Path::new(&at("text.txt")), Path::new(&run), &[]));
    fs::write(at("sea.yaml"), TASK).unwrap();
    fs::write(at("items.jsonl"), ITEMS).unwrap();
    let written = "task: more\nkind: generate\nitems:\n- {q: the sea, a: is}\n- {q: we sail, a: 'on'}\ndoc_to_text: q\n\
        doc_to_target: a\nnum_fewshot: 1\nfewshot_delimiter: ' '\ngeneration_kwargs: {until: ' ', max_gen_toks: 4}\n";
    fs::write(at("more.yaml"), written).unwrap();

    let read = "kind: perplexity\nitems:\n- {t: the sea is grey and we sail on a long night}\n- {t: stars}\ndoc_to_target: t\n";
    fs::write(at("read.yaml"), read).unwrap();

    let (sea, more, read) = (at("sea.yaml"), at("more.yaml"), at("read.yaml"));
    let said = succeed(&["eval", &run, "--task", &sea, &more, &read, "--out", &out]);
    let rows: Vec<Vec<&str>> = said.out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["task", "n", "metric", "value", "stderr"]);
    assert_eq!(rows[1][..3], ["sea", "3", "acc"]);
    assert_eq!(rows[2][..3], ["sea", "3", "acc_norm"]);
    assert_eq!(rows[3][..3], ["more", "2", "exact_match"]);
    let lines = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let items = lines("sea.jsonl");
    assert_eq!(items.len(), 3);
    let right = items.iter().filter(|i| i["picked"] == i["right"][0]).count();
    assert_eq!(rows[1][3], format!("{:.4}", right as f64 / 3.0));
    for item in &items {
        let sums: Vec<f64> = item["log_likelihoods"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert!(sums.iter().all(|s| *s < 0.0));
        let best = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(sums[item["picked"].as_u64().unwrap() as usize], best);
        // One token a character, the space of the delimiter included.
        assert_eq!(item["tokens"][0], item["choices"][0].as_str().unwrap().len() as u64 + 1);
    }
    assert_eq!(rows[4][..3], ["read", "2", "word_perplexity"]);
    assert_eq!((rows[6][2], rows[6][4]), ("bits_per_byte", "none"));
    assert_eq!(lines("read.jsonl")[0]["words"], 11);
    let answers = lines("more.jsonl");
    assert_eq!(answers[0]["prompt"], "we sail on the sea");
    assert!(answers.iter().all(|a| !a["answer"].as_str().unwrap().contains(' ')));

    // The same as JSON, whatever the threads.
    let said = succeed(&["eval", &run, "--task", &sea, "--json", "--threads", "1", "--limit", "2"]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let task = &report["tasks"][0];
    assert_eq!((&task["items"], &task["metrics"][0]["metric"]), (&2.into(), &"acc".into()));
    let kept: Value = serde_json::from_str(&fs::read_to_string(dir.path().join("out/results.json")).unwrap()).unwrap();
    assert_eq!(kept["tasks"][1]["task"], "more");

    // A text that the model has no letters for is told by its item.
    fs::write(at("items.jsonl"), ITEMS.replace("a long", "a LONG")).unwrap();
    fail(&["eval", &run, "--task", &sea], &["items.jsonl: item 3", "'L'"]);
    fail(&["eval", &run, "--task", &sea, &sea], &["\"sea\" is taken", "hint:"]);

    // A run that ends early leaves whole files, and no results that are not of them.
    let (items, results) = (lines("sea.jsonl"), dir.path().join("out/results.json"));
    fail(&["eval", &run, "--task", &sea, "--out", &out], &["item 3"]);
    assert!(results.exists(), "nothing was replaced");
    fail(&["eval", &run, "--task", &more, &sea, "--out", &out], &["item 3"]);
    assert!(!results.exists());
    assert_eq!((lines("sea.jsonl"), lines("more.jsonl").len()), (items, 2));
    let mut names = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| name.ends_with(".jsonl")), "nothing half written stays");
    fail(&["eval", &at("none"), "--task", &more], &["none does not exist", "hint:"]);
}

#[test]
fn examples_come_from_the_split_that_the_task_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("text.txt"), text()).unwrap();
    succeed(&train_args(Path::new(&at("text.txt")), Path::new(&at("run")), &["--set", "train.steps=7"]));
    fs::write(at("items.jsonl"), ITEMS).unwrap();
    fs::write(at("shown.jsonl"), "{\"q\": \"old stars\", \"c\": [\"on\", \"the night\"], \"a\": 1}\n").unwrap();
    let (run, task, out) = (at("run"), at("t.yaml"), at("out"));
    let splits = |named: &str| {
        let keys = format!(
            "dataset_path: json\ndataset_kwargs: {{data_files: {{test: items.jsonl, other: shown.jsonl}}}}\n\
             test_split: test\n{named}\nfewshot_delimiter: ' '\n"
        );
        fs::write(&task, TASK.replace("data: items.jsonl\n", &keys)).unwrap();
    };
    let prompt = |more: &[&str]| {
        succeed(&[&["eval", &run, "--task", &task, "--out", &out, "--limit", "1"], more].concat());
        let line = fs::read_to_string(dir.path().join("out/sea.jsonl")).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["prompt"].clone()
    };
    for named in ["training_split: other", "validation_split: other", "fewshot_split: other"] {
        splits(named);
        assert_eq!(prompt(&[]), "the sea", "{named}");
        assert_eq!(prompt(&["--num-fewshot", "1"]), "old stars the night the sea", "{named}");
        // The same where the task itself asks for it.
        splits(&format!("{named}\nnum_fewshot: 1"));
        assert_eq!(prompt(&[]), "old stars the night the sea", "{named}");
    }
    // There is one, and the items are no others. A file that is not read may be elsewhere; one that is wanted is missed.
    splits("training_split: other");
    let two = ["eval", &run, "--task", &task, "--num-fewshot", "2"];
    fail(&two, &["shown.jsonl: 2 solved examples are asked for, but there are 1", "hint:"]);
    fs::remove_file(at("shown.jsonl")).unwrap();
    assert_eq!(prompt(&[]), "the sea");
    fail(&["eval", "no-model", "--task", &task, "--num-fewshot", "1"], &["cannot read", "shown.jsonl", "hint:"]);

    fs::write(&task, "task: r\nkind: perplexity\nitems:\n- {t: the sea}\ndoc_to_target: t\n").unwrap();
    let words =
        ["t.yaml: 2 solved examples are asked for, but a task of loglikelihood_rolling has none", "hint: leave"];
    fail(&["eval", "no-model", "--task", &task, "--num-fewshot", "2"], &words);
    succeed(&["eval", &run, "--task", &task, "--num-fewshot", "0"]);
}

#[test]
fn what_is_not_from_here_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("t.yaml"), TASK.replace("data: items.jsonl", "items: [{q: a, c: [b, c], a: 0}]")).unwrap();
    let (task, out) = (at("t.yaml"), at("out"));
    let asked = ["eval", "no-model", "--task", &task, "--out", &out];
    fs::create_dir(&out).unwrap();
    for (name, kind, others, own) in [
        (
            "out/sea.jsonl",
            "file of outcomes",
            ITEMS,
            "{\"item\": 1, \"prompt\": \"a\", \"cut\": false, \"scores\": {}}\n",
        ),
        (
            "out/results.json",
            "file of results",
            "{\"tasks\": []}",
            "{\"model\": \"m\", \"seed\": 1, \"limit\": null, \"tasks\": []}",
        ),
    ] {
        for text in [others, "mine", "[1]"] {
            fs::write(at(name), text).unwrap();
            fail(&asked, &[name, &format!("is no {kind}, and would be lost"), "hint:"]);
            assert_eq!(fs::read_to_string(at(name)).unwrap(), text);
        }
        for text in [own, ""] {
            fs::write(at(name), text).unwrap();
            fail(&asked, &["no-model"]);
        }
        fs::remove_file(at(name)).unwrap();
    }
}

#[test]
fn what_a_task_is_read_from_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("x")).unwrap();
    let splits = "dataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl, train: [none.jsonl, sea.jsonl]}}\n\
        test_split: test\n";
    let (task, out) = (at("t.yaml"), at("x/.."));
    let list = format!("[{}]", ITEMS.lines().next().unwrap());
    for (keys, file, text) in [
        ("data: sea.jsonl\n", "sea.jsonl", ITEMS),
        ("data: results.json\n", "results.json", list.as_str()),
        ("data: items.jsonl\nfewshot_data: sea.jsonl\n", "sea.jsonl", ITEMS),
        (splits, "sea.jsonl", ITEMS),
    ] {
        fs::write(at("items.jsonl"), ITEMS).unwrap();
        fs::write(at(file), text).unwrap();
        fs::write(&task, TASK.replace("data: items.jsonl\n", keys)).unwrap();
        // The same folder by another name; what is wrong is said before a model is looked for.
        fail(&["eval", "no-model", "--task", &task, "--out", &out], &[file, "a file of the tasks", "hint:"]);
        assert_eq!(fs::read_to_string(at(file)).unwrap(), text);
        fs::remove_file(at(file)).unwrap();
    }
    fs::write(&task, TASK).unwrap();
    fs::write(at("file"), "x").unwrap();
    fail(
        &["eval", "no-model", "--task", &task, "--out", &at("file")],
        &["cannot create", "file", "hint: a file stands"],
    );
}

#[test]
fn tasks_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.yaml");
    let path = path.to_str().unwrap();
    // Task files are read before the model: there is none here.
    let says = |task: &str, items: &str, words: &[&str]| {
        fs::write(path, task).unwrap();
        fs::write(dir.path().join("items.jsonl"), items).unwrap();
        let said = fail(&["eval", "no-model", "--task", path], words);
        assert!(said.err.contains("hint:"), "{}", said.err);
    };
    let with = |more: &str| format!("{TASK}{more}");
    says("a: [1\n", ITEMS, &["t.yaml: line", "not YAML"]);
    says("- a\n", ITEMS, &["the task is a list, not a map"]);
    says(&with("doc_to_txt: x\n"), ITEMS, &["t.yaml: line 7", "doc_to_txt is not known", "did you mean doc_to_text?"]);
    says(&with("metric_list: [{metric: ac}]\n"), ITEMS, &["line 7", "metric of metric_list", "acc_norm"]);
    says(&with("generation_kwargs: {}\n"), ITEMS, &["nothing is written in a task of multiple_choice"]);
    let written = "output_type: generate_until\nitems: [{q: a, a: b}]\ndoc_to_text: q\ndoc_to_target: a\n";
    let warm = format!("{written}generation_kwargs: {{temperature: 0.7}}\n");
    says(&warm, ITEMS, &["temperature of generation_kwargs: only 0", "hint: leave it out"]);
    says(&with("data: items.jsonl\n"), ITEMS, &["data is given twice", "hint: leave one of the two out"]);
    says(&with("tag: &t sea\ngroup: *t\n"), ITEMS, &["aliases", "hint: write the value again"]);
    let rolling = with("").replace("multiple_choice", "loglikelihood_rolling");
    says(&rolling, ITEMS, &["doc_to_choice: a task of loglikelihood_rolling has none"]);
    says(&with("process_docs: !function u.f\n"), ITEMS, &["Python"]);
    says(&with("dataset_path: allenai/ai2_arc\n"), ITEMS, &["both data and dataset_path"]);
    says(&TASK.replace("data: items.jsonl", "dataset_path: a/b"), ITEMS, &["a/b is not fetched", "hint:"]);
    says(&TASK.replace("data: items.jsonl\n", ""), ITEMS, &["data is missing", "hint:"]);
    says(&TASK.replace("items.jsonl", "none.jsonl"), ITEMS, &["cannot read", "none.jsonl"]);
    says(&TASK.replace("doc_to_text: '{{q}}'\n", ""), ITEMS, &["doc_to_text is missing", "hint:"]);
    says(&TASK.replace("'{{q}}'", "'{{q'"), ITEMS, &["doc_to_text", "line 1"]);
    says(&with("num_fewshot: -1\n"), ITEMS, &["num_fewshot: -1 is not between 0 and 1000"]);
    says(TASK, "", &["items.jsonl: it has no items"]);
    says(TASK, "{\"q\": 1}\n{\"q\"\n", &["items.jsonl: line 2: not JSON", "hint:"]);
    says(TASK, "[]\n", &["item 1: it is not a JSON object"]);
    fs::write(path, [b't', 0xff]).unwrap();
    fail(&["eval", "no-model", "--task", path], &["t.yaml: line 1: it is not UTF-8"]);
}

#[test]
fn items_that_do_not_fit_their_task_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("text.txt"), text()).unwrap();
    let steps = ["--set", "train.steps=7"];
    succeed(&train_args(Path::new(&at("text.txt")), Path::new(&at("run")), &steps));
    let says = |task: &str, items: &str, words: &[&str]| {
        fs::write(at("t.yaml"), task).unwrap();
        fs::write(at("items.jsonl"), items).unwrap();
        fail(&["eval", &at("run"), "--task", &at("t.yaml")], words);
    };
    let one = ITEMS.lines().next().unwrap();
    let field = format!("{one}\n{{\"c\": [\"is\"], \"a\": 0}}\n");
    says(TASK, &field, &["items.jsonl: item 2: doc_to_text: there is no field \"q\"", "hint:"]);
    let plain = TASK.replace("'{{q}}'", "q");
    says(&plain, &field, &["items.jsonl: item 2: there is no field \"q\""]);
    says(TASK, &one.replace("\"a\": 0", "\"a\": 2"), &["item 1", "gives 2, but the 2 choices are 0 to 1"]);
    says(TASK, &one.replace("[\"is\", \"on\"]", "\"is\""), &["item 1", "doc_to_choice gives no list"]);
    let fails = TASK.replace("'{{a}}'", "'{{c.index(q)}}'");
    says(&fails, one, &["item 1: doc_to_target", "'the sea' is not in list"]);
    let endless =
        TASK.replace("'{{q}}'", "'{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}'");
    says(&endless, one, &["item 1: doc_to_text", "fuel"]);
    says(&format!("{TASK}num_fewshot: 1\n"), one, &["1 solved examples are asked for, but there are 0"]);
    says(&TASK.replace("'{{q}}'", "'7'"), one, &["item 1", "doc_to_text gives 7, but the 2 choices are 0 to 1"]);
    let three = one.replace("\"on\"", "\"on\", \"a\"");
    says(&format!("{TASK}metric_list: [{{metric: f1}}]\n"), &three, &["item 1", "there are 3 choices; f1"]);
    says(
        &format!("{TASK}metric_list: [{{metric: mcc}}]\n").replace("'{{a}}'", "'{{[0, 1]}}'"),
        one,
        &["2 choices are right"],
    );
}
