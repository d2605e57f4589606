//! What a timeline tells of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain::Hash;

/// The longest text of an event that others choose, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The most that a program's arguments, or the names in its environment, take in an event, in bytes.
pub const MAX_WORDS_BYTES: usize = 64 * 1024;

/// One thing that happened. In JSON, `type` says which of these it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A monitor took the sandbox over.
    Start {
        /// Its id.
        sandbox: String,
        /// The user's name for it.
        name: Option<String>,
        /// The version of viv.
        version: String,
        /// What it was asked to be, in words of the specification; of environments the names alone.
        spec: Value,
    },
    /// How it may reach others: the mode and, if filtered, the policy.
    Policy {
        /// `none`, `filtered`, `nat` or `bridge`.
        network: String,
        /// The rules as the egress has them, and the names of the model APIs it may call.
        rules: Value,
    },
    /// Programs can be run.
    Ready {
        /// How the machine came to life.
        way: Value,
    },
    /// A program was asked for.
    Exec(Exec),
    /// It ended, or was never begun.
    ExecEnded {
        /// The number in [`Exec::program`].
        program: u64,
        /// How, in the guest's words.
        end: ProgramEnd,
        /// What was recorded of it, as it stays.
        recording: Option<Recorded>,
    },
    /// A recording as it was at this time; its program runs on.
    Recording {
        /// The number in [`Exec::program`].
        program: u64,
        /// What was recorded so far.
        recording: Recorded,
    },
    /// The guest was asked for something besides a program.
    Request {
        /// The type of the message.
        kind: String,
        /// What it is about, such as a secret's name.
        subject: Option<String>,
    },
    /// A port of the guest was connected to through the sandbox's socket.
    Port {
        /// Which one.
        port: u32,
    },
    /// A log that another process keeps (network, model calls), as it was at this time.
    Log(LogReference),
    /// What became of the workspace's files, once the machine was gone.
    Files(FileSummary),
    /// A copy of what an agent wrote down of its work, made once the machine was gone.
    Transcript(Transcript),
    /// What was where transcripts are and was not copied.
    TranscriptsLeftOut {
        /// How many files.
        files: u64,
        /// Which, and why, as far as there are not too many.
        reasons: Vec<String>,
    },
    /// The machine stands still.
    Paused,
    /// It goes on.
    Resumed,
    /// The sandbox ended.
    End {
        /// `stopped`, `killed`, `abandoned` or `failed`.
        reason: String,
        /// Why it failed.
        error: Option<String>,
    },
    /// The last writer was killed before it could close the timeline.
    Recovered {
        /// Whole lines that were beyond the head and are part of the chain now.
        adopted_lines: u64,
        /// Bytes of a torn last line, which were taken away.
        torn_bytes: u64,
        /// The SHA-256 of those.
        torn_sha256: Option<Hash>,
    },
    /// What was here did not verify and was moved out of the way; a new chain begins.
    SetAside {
        /// The name of the directory beside this one that holds it.
        directory: String,
    },
    /// The oldest segment was removed to keep the timeline within its limit.
    Dropped {
        /// The segment's file.
        segment: String,
        /// The last line that was in it.
        through_seq: u64,
        /// That line's hash, which the first line that is left follows on.
        through_hash: Hash,
        /// The id of the sandbox that started last.
        sandbox: String,
        /// The highest number of a program so far.
        programs: u64,
    },
    /// A recording was removed to keep them all within their limit.
    DroppedRecording {
        /// Its file.
        file: String,
    },
    /// The copy of a transcript was removed to keep them all within their limit.
    DroppedTranscript {
        /// Its file.
        file: String,
    },
    /// Events that could not be written, for want of space on the disk or because they came too fast.
    Lost {
        /// How many.
        events: u64,
    },
}

/// A program that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Its number in this timeline, from 1.
    pub program: u64,
    /// The name of the session that holds it, if one does.
    pub session: Option<String>,
    /// Program and arguments; empty for a login shell.
    pub argv: Vec<String>,
    /// Who it was to run as.
    pub user: String,
    /// Where it was to start.
    pub cwd: String,
    /// The names of the variables it was given, never their values.
    pub environment: Vec<String>,
    /// Columns and rows of its terminal, if it was given one.
    pub terminal: Option<(u16, u16)>,
    /// The file of its recording, if it is recorded.
    pub recording: Option<String>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum ProgramEnd {
    /// By itself, or by a signal.
    Exited {
        /// The exit code, or 128 plus the signal's number.
        code: i32,
        /// The signal.
        signal: Option<i32>,
    },
    /// It was not begun.
    Refused {
        /// Why.
        reason: String,
    },
    /// Nobody saw it end: its client went, or the sandbox did.
    Unseen,
}

/// A recording's extent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its file.
    pub file: String,
    /// Bytes of the file so far.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Hash,
    /// Bytes of output that were left out: beyond the limit, or faster than the disk.
    pub omitted_bytes: u64,
}

/// What differs in a workspace from what it had before any program of the sandbox ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSummary {
    /// `live`: the directory as it was at the end, whoever changed it. `clone`: what the sandbox reported of its
    /// copy.
    pub mode: String,
    /// Files that are new.
    pub added: u64,
    /// Files whose content, type or permissions are others.
    pub changed: u64,
    /// Files that are gone.
    pub deleted: u64,
    /// Files that are at another path.
    pub renamed: u64,
    /// Each with a letter as `git diff --name-status` has it, such as `M src/main.rs`, as far as [`cut_words`] lets
    /// them.
    pub names: Vec<String>,
}

/// The copy of an agent's transcript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcript {
    /// Whose it is.
    pub agent: String,
    /// What it was called, below the agent's home: the sandbox's word.
    pub path: String,
    /// The copy's file.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of it.
    pub sha256: Hash,
}

/// A log of another process, as it was at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReference {
    /// What kind: `network` or `usage`.
    pub log: String,
    /// The file's inode: the same file may have another name once it was rotated.
    pub inode: u64,
    /// Bytes from its beginning.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Hash,
    /// How many lines of each `event` are among them.
    pub events: BTreeMap<String, u64>,
    /// Nothing follows any more: the log goes on in another file, or its writer has ended.
    pub closed: bool,
}

/// Cuts a text that is too long, and says so.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}… ({} bytes more)", &text[..end], text.len() - end)
}

/// Cuts words that are longer than [`MAX_TEXT_BYTES`], or more than [`MAX_WORDS_BYTES`] together.
#[must_use]
pub fn cut_words(words: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let (mut kept, mut bytes, mut left_out) = (Vec::new(), 0_usize, 0_usize);
    for word in words {
        let word = cut(word.as_ref(), MAX_TEXT_BYTES);
        bytes = bytes.saturating_add(word.len() + 1);
        if bytes > MAX_WORDS_BYTES {
            left_out += 1;
        } else {
            kept.push(word);
        }
    }
    if left_out > 0 {
        kept.push(format!("… ({left_out} more)"));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!(cut("übel", 1), "… (5 bytes more)");
        let words = cut_words(std::iter::repeat_n("x".repeat(5000), 100));
        assert!(words[0].ends_with("… (904 bytes more)"));
        assert_eq!(words.last().map(String::as_str), Some("… (85 more)"), "{}", words.len());
        assert!(words.iter().map(String::len).sum::<usize>() < MAX_WORDS_BYTES + 100);
    }
}
