//! An error keeps its kind for code, its chain and hints for people, and crosses a process
//! boundary as a report.

use std::error::Error as StdError;
use std::io;

use viv_error::{Error, Kind, Report};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorKind {
    Missing,
    Broken,
}

impl Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Broken => "broken",
        }
    }
}

fn nested() -> Error<ErrorKind> {
    let root = io::Error::new(io::ErrorKind::NotFound, "no such file");
    let inner = Error::new(ErrorKind::Missing, "no kernel").source(root).hint("an inner hint");
    Error::new(ErrorKind::Broken, "the machine cannot start").source(inner).hint("viv doctor").hint("viv doctor --fix")
}

#[test]
fn display_is_the_message_alone() {
    assert_eq!(nested().to_string(), "the machine cannot start");
}

#[test]
fn callers_match_on_the_kind() {
    assert_eq!(nested().kind(), &ErrorKind::Broken);
}

#[test]
fn the_chain_leads_to_the_root_and_keeps_types() {
    let error = nested();
    let inner = StdError::source(&error).unwrap().downcast_ref::<Error<ErrorKind>>().unwrap();
    assert_eq!(inner.kind(), &ErrorKind::Missing);
    let root = StdError::source(inner).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(root.kind(), io::ErrorKind::NotFound);
}

#[test]
fn an_error_is_one_word_wide() {
    // Results are returned everywhere; the rarer arm must not widen them.
    assert_eq!(size_of::<Error<ErrorKind>>(), size_of::<usize>());
}

#[test]
fn errors_cross_threads() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Error<ErrorKind>>();
}

#[test]
fn a_report_holds_everything_people_need() {
    let report = Report::from(&nested());
    assert_eq!(
        report,
        Report {
            kind: "broken".into(),
            message: "the machine cannot start".into(),
            causes: vec!["no kernel".into(), "no such file".into()],
            hints: vec!["viv doctor".into(), "viv doctor --fix".into()],
        }
    );
}

#[test]
fn a_report_survives_json_and_may_leave_lists_out() {
    let report = Report::from(&nested());
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(
        json,
        r#"{"kind":"broken","message":"the machine cannot start","causes":["no kernel","no such file"],"hints":["viv doctor","viv doctor --fix"]}"#
    );
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    let bare: Report = serde_json::from_str(r#"{"kind":"missing","message":"x"}"#).unwrap();
    assert!(bare.causes.is_empty() && bare.hints.is_empty());
}
