//! The reference: every command, setting, variable and exit code, as Markdown, from the same
//! definitions the program itself uses.

use std::fmt::Write;

use clap::Command;
use viv_error::Report;
use viv_sandbox::Way;

use crate::attempts::State;
use crate::environment::VARIABLES;
use crate::exit_code;
use crate::output::{JsonEvent, Timings};
use crate::settings::definitions;
use crate::timing::{Place, Span};

/// The whole reference.
#[must_use]
pub fn markdown(mut command: Command) -> String {
    command.build();
    let mut text =
        String::from("# Reference\n\nGenerated from `viv internal-reference`; do not edit.\n\n## Commands\n");
    commands(&mut text, &command, "viv");
    settings(&mut text);
    events(&mut text);
    text.push_str("\n## Environment variables\n\n| variable | meaning |\n|---|---|\n");
    for (name, meaning) in VARIABLES {
        let names: Vec<String> = name.split(", ").map(|name| format!("`{name}`")).collect();
        row(&mut text, &[&names.join(", "), meaning]);
    }
    text.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (code, meaning) in exit_code::ALL {
        row(&mut text, &[code, meaning]);
    }
    text
}

fn commands(text: &mut String, command: &Command, path: &str) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        let usage = sub.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim();
        let _ = write!(text, "\n### `{path}`\n\n{}.\n\n```\n{usage}\n```\n", about(sub));
        let arguments: Vec<_> = sub.get_arguments().filter(|argument| !argument.is_hide_set()).collect();
        if !arguments.is_empty() {
            text.push_str("\n| argument | meaning |\n|---|---|\n");
        }
        for argument in arguments {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            row(text, &[&format!("`{}`", spelling(argument)), &help]);
        }
        if let Some(after) = sub.get_after_help() {
            let _ = write!(text, "\n```text\n{}\n```\n", after.to_string().trim());
        }
        commands(text, sub, &path);
    }
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn spelling(argument: &clap::Arg) -> String {
    let names: Vec<String> = argument
        .get_short()
        .map(|short| format!("-{short}"))
        .into_iter()
        .chain(argument.get_long().map(|long| format!("--{long}")))
        .collect();
    let value = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    match (names.is_empty(), argument.get_action().takes_values()) {
        (true, _) => value,
        (false, true) => format!("{} {value}", names.join(", ")),
        (false, false) => names.join(", "),
    }
}

fn settings(text: &mut String) {
    text.push_str(
        "\n## Configuration files\n\n\
         Settings come from the command line, then `viv.toml` in the workspace directory, then\n\
         `~/.config/viv/config.toml`, then defaults; the earlier wins. `env` and `labels` are merged one by one, `mounts` add up,\n\
         and a mount replaces one of a later place with the same destination. An unknown key or a bad value is refused.\n\n\
         `viv.toml` comes with a repository, which may be hostile. So it may change the sandbox, but not what the sandbox\n\
         sees of the host: paths in it are relative to the workspace and must lie beneath it, and it cannot copy variables\n\
         from the host. Paths in `config.toml` are absolute or begin with `~/`.\n\n\
         A mount may also be a table: `{ source = \"/a:b\", destination = \"/data\", read-only = true }`.\n\n\
         Keys of the section `[run]`:\n\n",
    );
    section(text, definitions::ALL);
    text.push_str("\nKeys of the section `[image]`:\n\n");
    section(text, definitions::IN_IMAGE);
}

fn section(text: &mut String, settings: &[&definitions::Setting]) {
    text.push_str("| key | flag | meaning | default | example | in `viv.toml` |\n|---|---|---|---|---|---|\n");
    for setting in settings {
        row(
            text,
            &[
                &format!("`{}`", setting.key),
                &format!("`{}`", setting.flag),
                setting.help,
                setting.default,
                &format!("`{} = {}`", setting.key, setting.example),
                setting.project.describe(),
            ],
        );
    }
}

/// What `viv run --json` says, each as it is really written.
fn events(text: &mut String) {
    let id = "3f2a91c0";
    let template = Way::Template { key: "14b87bafb9e88938752e687a26b34113".to_owned() };
    let spare = Way::Spare { key: "14b87bafb9e88938752e687a26b34113".to_owned() };
    let reason = "there is no template of this image and shape yet".to_owned();
    let cold = Way::Cold { reason, make_template: true };
    let error = Report {
        kind: "vmm_missing".to_owned(),
        message: "qemu-system-x86_64 is not installed".to_owned(),
        causes: Vec::new(),
        hints: vec!["viv doctor --fix".to_owned()],
    };
    let spans = [Span { name: "settings".to_owned(), place: Place::Client, start_us: 0, end_us: 2100 }];
    let timings =
        Timings { prepare_ms: 1, start_ms: 250, first_output_ms: Some(70), program_ms: 80, stop_ms: 60, total_ms: 391 };
    let all = [
        ("something is built first", JsonEvent::Preparing { message: "making the root image" }),
        ("something is less than it could be", JsonEvent::Warning { message: "no KVM", hint: Some("viv doctor") }),
        ("the machine starts from a template", JsonEvent::Starting { id, way: &template }),
        ("a machine is taken that stood ready", JsonEvent::Starting { id, way: &spare }),
        ("the machine boots, and why; whether a template is made afterwards", JsonEvent::Starting { id, way: &cold }),
        ("programs can be run", JsonEvent::Ready { id, milliseconds: 250, guest_uptime_ms: 4100, published: &[] }),
        (
            "with `--attempts`, how far each has come: `starting`, `running`, `taking`, `checking`, `ended`",
            JsonEvent::Attempt { name: "night-2", id, state: State::Running },
        ),
        (
            "with `--timing`, at the end, also of a run that failed; `where` is client, monitor or guest",
            JsonEvent::Timing { spans: &spans, total_us: 2100 },
        ),
        ("`viv` failed: the last line", JsonEvent::Error { error: &error, exit_code: exit_code::VIV_FAILED }),
        (
            "the program ended: the last line",
            JsonEvent::Result { id, exit_code: 0, signal: None, timed_out: false, timings },
        ),
    ];
    text.push_str(
        "\n## Events of `viv run --json`\n\n\
         One JSON object per line on standard error, the program's own output there aside. Fields may be added; a reader\n\
         skips events and fields it does not know. `starting` comes again if a template turns out unusable.\n\n\
         | when | event |\n|---|---|\n",
    );
    for (when, event) in &all {
        row(text, &[when, &format!("`{}`", serde_json::to_string(event).unwrap_or_default())]);
    }
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_setting_and_code_is_there() {
        let text = markdown(crate::cli::Cli::command());
        for needle in [
            "### `viv run`",
            "### `viv template ls`",
            "\"kind\":\"cold\"",
            "`env-from-host`",
            "`VIV_BOOT_DEADLINE`",
            "| 127 |",
            "--accel",
        ] {
            assert!(text.contains(needle), "{needle} is missing from:\n{text}");
        }
        assert!(!text.contains("internal-monitor"));
    }
}
