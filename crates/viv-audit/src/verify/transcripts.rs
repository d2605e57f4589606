//! Whether the copies of transcripts are those that the timeline tells of.

use super::{Check, FindingKind, prefix};
use crate::files;

impl Check<'_> {
    /// `closed`: the writer closed the timeline, so that nothing is on its way.
    pub(super) fn transcripts(&mut self, closed: bool) {
        let told = std::mem::take(&mut self.transcripts);
        for (file, transcript) in &told {
            if self.dropped_transcripts.contains(file) {
                continue;
            }
            let name = format!("{}/{file}", files::TRANSCRIPTS);
            if files::transcript_number(file).is_none() {
                self.find(FindingKind::Changed, &name, None, "no transcript has such a name");
                continue;
            }
            match prefix(&files::transcript_path(self.directory, file), transcript.bytes) {
                Err(_) => self.find(FindingKind::Cut, &name, None, "the transcript is missing or shorter than it was"),
                Ok((hash, _)) if hash != transcript.sha256 => {
                    self.find(FindingKind::Changed, &name, None, "the transcript was changed");
                }
                Ok((_, true)) => {
                    self.find(FindingKind::Inserted, &name, None, "something was added to the transcript");
                }
                Ok(_) => {}
            }
        }
        let first = self.first.map_or(0, |(seq, _)| seq);
        for number in files::transcripts(self.directory).unwrap_or_default() {
            let file = files::transcript_name(number);
            // Lines that told of older ones were dropped with their segment.
            if !closed || number < first || told.contains_key(&file) {
                continue;
            }
            let name = format!("{}/{file}", files::TRANSCRIPTS);
            if self.recovered.contains(&number) {
                self.notes.push(format!("no line tells of {name}: its writer was killed"));
            } else {
                self.find(FindingKind::Inserted, &name, None, "no line tells of this transcript");
            }
        }
    }
}
