//! Policies out of logs.
use crate::event::Event;
/// A refusal.
#[derive(serde::Serialize)]
pub struct Refusal {
    /// n
    pub count: u64,
    /// r
    pub reason: String,
    /// a
    pub allow: Option<String>,
}
/// d
#[must_use]
pub fn denied(_: &[Event]) -> Vec<Refusal> {
    Vec::new()
}
/// l
#[must_use]
pub fn learn(_: &[Event]) -> Vec<String> {
    Vec::new()
}
