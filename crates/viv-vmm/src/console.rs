//! The last bytes of an endless output, and how to show them safely.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of an output is kept, in bytes.
const KEPT_BYTES: usize = 16 * 1024;

/// What Linux says when a timer will not wake it any more.
///
/// It finds out how fast the local APIC's timer runs by counting along for a tenth of a second; where the
/// host has that processor wait for so long meanwhile, it counts next to nothing, which it takes for a
/// broken timer (`calibrate_APIC_clock` in arch/x86/kernel/apic/apic.c). It can be told the rate by Intel's
/// CPUID leaf 0x15 alone, which QEMU does not emulate. And under QEMU's emulation a processor was seen whose
/// timer stopped coming; RCU on the other one notices (`rcu_check_gp_kthread_expired_fqs_timer` in
/// kernel/rcu/tree_stall.h), after 21 seconds.
pub(crate) const TIMER_LOST: [&str; 2] =
    ["APIC frequency too slow, disabling apic timer", "Possible timer handling issue on cpu="];

/// The last bytes of an output: the guest's console, or the VMM's own words.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// The last lines, cleaned of everything a terminal would act on.
    #[must_use]
    pub fn lines(&self, most: usize) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(most)..].to_vec()
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        // Cut rarely, so that a chatty guest costs little.
        if kept.len() > 2 * KEPT_BYTES {
            let excess = kept.len() - KEPT_BYTES;
            kept.drain(..excess);
        }
    }

    /// Follows an output to its end.
    pub async fn follow(self, mut output: impl AsyncRead + Unpin) {
        while self.read_from(&mut output).await.is_some() {}
    }

    /// Follows an output until one of the phrases has come up in it. False if it ended without them.
    pub(crate) async fn follow_until(&self, output: &mut (impl AsyncRead + Unpin), phrases: &[&str]) -> bool {
        while let Some(read) = self.read_from(output).await {
            // It may have begun in what was read before.
            if phrases.iter().any(|phrase| self.recent_has(read + phrase.len() - 1, phrase.as_bytes())) {
                return true;
            }
        }
        false
    }

    /// How many bytes there were to read; `None` at the end.
    async fn read_from(&self, output: &mut (impl AsyncRead + Unpin)) -> Option<usize> {
        let mut chunk = [0; 4096];
        let read = output.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        self.push(&chunk[..read]);
        Some(read)
    }

    /// Whether the words are among the last bytes.
    fn recent_has(&self, bytes: usize, words: &[u8]) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept[kept.len().saturating_sub(bytes)..].windows(words.len()).any(|window| window == words)
    }
}

/// Text from a guest without anything a terminal would act on.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().filter(|&c| c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_end_and_nothing_a_terminal_acts_on() {
        let tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(b"noise noise noise\n");
        }
        tail.push(b"\x1b[31mKernel panic\x07\r\n\xff\n");
        assert!(tail.0.lock().unwrap().len() <= 2 * KEPT_BYTES);
        assert_eq!(tail.lines(2), ["[31mKernel panic", "\u{fffd}"]);
    }

    #[tokio::test]
    async fn words_are_found_wherever_a_read_ends() {
        for phrase in TIMER_LOST {
            let text = format!("[    0.2] {phrase}\r\n");
            for cut in 0..text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let tail = Tail::default();
                assert!(tail.follow_until(&mut first.chain(second), &TIMER_LOST).await, "cut at {cut}");
            }
            assert!(!Tail::default().follow_until(&mut &text.as_bytes()[12..], &TIMER_LOST).await);
        }
    }
}
