//! The last bytes of an endless output, and how to show them safely.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of an output is kept, in bytes.
const KEPT_BYTES: usize = 16 * 1024;

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
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = output.read(&mut chunk).await {
            self.push(&chunk[..read]);
        }
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
}
