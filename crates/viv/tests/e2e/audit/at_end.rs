//! What a timeline tells of a sandbox whose machine is gone: the workspace's files, and what its agents wrote down.

use serde_json::{Value, json};

use super::{lines, segment, types, verify};
use crate::support::{Host, Ran, until};

/// An agent that does what its prompt says, and writes down whatever that is.
const SCRIBE: &str = r#"
description = "A shell that keeps transcripts"
interactive = ["sh"]
headless = ["sh", "-c", "{prompt}"]
state = [".scribe"]
transcripts = [".scribe/sessions", ".scribe/*/log"]
"#;

fn ok(ran: &Ran) -> &str {
    assert_eq!(ran.code, 0, "{ran:?}");
    &ran.stdout
}

/// The events of a kind, and what they say.
fn told(host: &Host, name: &str, kind: &str) -> Vec<Value> {
    let events = lines(host, name).into_iter().map(|line| line["event"].clone());
    events.filter(|event| event["type"] == kind).collect()
}

fn counts(event: &Value) -> [u64; 4] {
    ["added", "changed", "deleted", "renamed"].map(|count| event[count].as_u64().unwrap())
}

#[test]
fn a_timeline_tells_what_became_of_the_workspace() {
    let Some(host) = Host::ordinary() else { return };
    for name in ["kept", "edited", "gone"] {
        host.write(name, format!("{name}\n").repeat(20));
    }
    let script = "echo more >> edited; rm gone; echo x > new; printf y > \"$(printf 'a\\033[2Jb')\"";
    ok(&host.run(&["run", "--name", "live", "--", "sh", "-c", script]));
    let told_of_live = told(&host, "live", "files");
    let [files] = &told_of_live[..] else { panic!("{told_of_live:?}") };
    assert_eq!((counts(files), &files["mode"]), ([2, 1, 1, 0], &json!("live")), "{files}");
    let names = files["names"].as_array().unwrap();
    assert!(["A new", "M edited", "D gone"].iter().all(|name| names.contains(&json!(name))), "{files}");
    assert_eq!(types(&lines(&host, "live")).last(), Some(&"end"));
    let shown = host.run(&["audit", "show", "live"]);
    assert!(shown.stdout.contains("files     live: 2 added, 1 changed, 1 deleted"), "{shown:?}");
    assert!(!shown.stdout.contains('\u{1b}'), "{shown:?}");
    assert!(verify(&host, "live").stdout.starts_with("whole: "), "{:?}", verify(&host, "live"));
    let path = segment(&host, "live");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"deleted\":1", "\"deleted\":0")).unwrap();
    assert_eq!(verify(&host, "live").code, 1);
    std::fs::write(&path, text).unwrap();

    // Nobody waits for this one, and what it did is told all the same.
    ok(&host.run(&["run", "-d", "--name", "away", "--", "sh", "-c", "echo z > alone"]));
    until("it has ended", || verify(&host, "away").stdout.starts_with("whole: "));
    assert_eq!(told(&host, "away", "files")[0]["names"], json!(["A alone"]));

    ok(&host.run(&["run", "--workspace", "clone", "--name", "copy", "--", "sh", "-c", "rm kept; echo x > inside"]));
    let files = &told(&host, "copy", "files")[0];
    assert_eq!((counts(files), &files["mode"]), ([1, 0, 1, 0], &json!("clone")), "{files}");
    assert!(host.project().join("kept").exists() && !host.project().join("inside").exists());

    ok(&host.run(&["run", "--no-review", "--name", "unseen", "--", "sh", "-c", "echo x > unseen"]));
    assert_eq!(told(&host, "unseen", "files"), Vec::<Value>::new());
    assert!(verify(&host, "unseen").stdout.starts_with("whole: "));
    host.assert_nothing_is_left();
}

#[test]
fn what_an_agent_wrote_down_is_kept_and_guarded() {
    let Some(host) = host_with_scribe() else { return };
    let write = "mkdir -p ~/.scribe/sessions/p ~/.scribe/one; echo '{\"ran\":\"make\"}' > ~/.scribe/sessions/p/a.jsonl; \
                 echo typed > ~/.scribe/one/log; echo no > ~/.scribe/settings";
    ok(&host.run(&["run", "--name", "first", "scribe", write]));
    let kept = transcripts(&host, "first");
    let paths: Vec<&str> = kept.iter().map(|kept| kept["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [".scribe/one/log", ".scribe/sessions/p/a.jsonl"], "{kept:?}");
    assert!(kept.iter().all(|kept| kept["agent"] == "scribe"), "{kept:?}");
    let number = kept[1]["number"].to_string();
    assert_eq!(ok(&host.run(&["logs", "first", "--transcript", &number])), "{\"ran\":\"make\"}\n");
    let export = host.path("home/a.jsonl");
    ok(&host.run(&["logs", "first", "--transcript", &number, "--export", export.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(export).unwrap(), "{\"ran\":\"make\"}\n");
    assert_eq!(host.run(&["logs", "first", "--transcript", "99"]).code, 125);

    // The home stays; what was there before is not this sandbox's. Whatever it has the file say of its age is no matter.
    let again = "cat ~/.scribe/sessions/p/a.jsonl; echo 2 > ~/.scribe/sessions/p/b.jsonl; \
                 touch -d 2001-01-01 ~/.scribe/sessions/p/b.jsonl";
    assert_eq!(ok(&host.run(&["run", "--name", "second", "scribe", again])), "{\"ran\":\"make\"}\n");
    let kept = transcripts(&host, "second");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["path"], ".scribe/sessions/p/b.jsonl");

    let whole = verify(&host, "first");
    assert!(whole.code == 0 && whole.stdout.starts_with("whole: "), "{whole:?}");
    let copy = transcripts(&host, "first")[1]["copy"].as_str().unwrap().to_owned();
    let before = std::fs::read_to_string(&copy).unwrap();
    std::fs::write(&copy, before.replace("make", "fake")).unwrap();
    let changed = verify(&host, "first");
    assert!(changed.code == 1 && changed.stdout.contains("the transcript was changed"), "{changed:?}");
    std::fs::remove_file(&copy).unwrap();
    let missing = verify(&host, "first");
    assert!(missing.code == 1 && missing.stdout.contains("the transcript is missing"), "{missing:?}");
    host.assert_nothing_is_left();
}

#[test]
fn a_hostile_home_gives_nothing_of_the_host_to_the_timeline() {
    let Some(host) = host_with_scribe() else { return };
    let secret = host.path("home/secret");
    std::fs::write(&secret, "of the host").unwrap();
    host.own(&secret);
    let script = format!(
        "mkdir -p ~/.scribe/sessions/d; cd ~/.scribe/sessions; ln -s /etc/shadow shadow; ln -s {} secret; \
         ln -s {} home; ln -s ../../../../../../.. up; mkfifo fifo; truncate -s 10G huge; \
         echo fine > \"$(printf 'x\\033]0;title\\007\\n[2Jy')\"; rm -rf d; ln -s /etc d",
        secret.display(),
        host.path("home").display()
    );
    let ran = host.run(&["run", "--name", "bad", "scribe", &script]);
    ok(&ran);
    let kept = transcripts(&host, "bad");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["path"], ".scribe/sessions/x\u{1b}]0;title\u{7}\n[2Jy");
    assert_eq!(std::fs::read_to_string(kept[0]["copy"].as_str().unwrap()).unwrap(), "fine\n");
    let left_out = told(&host, "bad", "transcripts_left_out");
    assert_eq!(left_out[0]["files"], 7, "{left_out:?}");
    let reasons = left_out[0]["reasons"].to_string();
    for name in ["shadow", "secret", "home", "up", "fifo", "sessions/d:"] {
        assert!(reasons.contains(name), "{reasons}");
    }
    assert!(reasons.contains("huge: it has 10737418240 bytes"), "{reasons}");
    for arguments in [&["audit", "show", "bad"][..], &["logs", "bad", "--transcripts"]] {
        let shown = host.run(arguments);
        assert!(!ok(&shown).contains(['\u{1b}', '\u{7}']) && shown.stdout.contains("title"), "{shown:?}");
    }
    assert!(verify(&host, "bad").stdout.starts_with("whole: "), "{:?}", verify(&host, "bad"));
    let directory = host.path("state/viv/audit/bad");
    let mut grep = host.command("grep");
    assert!(!grep.args(["-rq", "of the host"]).arg(directory).status().unwrap().success());
    host.assert_nothing_is_left();
}

fn host_with_scribe() -> Option<Host> {
    let host = Host::ordinary()?;
    let directory = host.path("config/viv/agents");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("scribe.toml"), SCRIBE).unwrap();
    host.own(&directory);
    Some(host)
}

fn transcripts(host: &Host, name: &str) -> Vec<Value> {
    let mut kept: Vec<Value> = serde_json::from_str(ok(&host.run(&["logs", name, "--transcripts", "--json"]))).unwrap();
    kept.sort_by_key(|kept| kept["path"].to_string());
    kept
}
