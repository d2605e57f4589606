//! `viv`: a computer of its own for a coding agent.

mod agent;
mod app;
mod attempts;
mod ci;
mod cli;
mod commands;
mod definition;
mod devcontainer;
mod doctor;
mod environment;
mod error;
mod exit_code;
mod git;
mod guest_binary;
mod init;
mod lock;
mod network;
mod output;
mod reference;
mod render;
mod resolve;
mod settings;
mod ssh;
mod sys;
mod terminal;
mod timing;
mod unit;

fn main() -> std::process::ExitCode {
    app::main()
}
