//! `viv`: a computer of its own for a coding agent.

mod agent;
mod app;
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
mod lock;
mod network;
mod output;
mod reference;
mod render;
mod resolve;
mod settings;
mod sys;
mod terminal;
mod timing;

fn main() -> std::process::ExitCode {
    app::main()
}
