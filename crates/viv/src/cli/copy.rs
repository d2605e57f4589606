//! `viv cp` as it is typed.

use clap::Args;

/// `viv cp`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv cp notes.txt review:/tmp/          into the sandbox named review
  viv cp review:dist .                   from its workspace, as ./dist
  viv cp review:dist/. public            what is in dist, into public
  viv cp review:/var/log - | tar t       as a tar archive
  tar c src | viv cp - review:/tmp

SANDBOX is an id, a unique beginning of one, or a name. A path inside that is relative is meant from the
workspace; a path here with a colon in it begins with ./ or /. A directory that there is already is copied
into; a file that there is already is replaced. Links are copied as links.

What comes out belongs to you, what goes in to user agent. Modes and times are kept, setuid and setgid bits
are not; device nodes, FIFOs and sockets are left out. Nothing is written through a link.")]
pub struct CopyArguments {
    /// What to copy: PATH, SANDBOX:PATH, or - for a tar archive on stdin
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where to: SANDBOX:PATH, PATH, or - for a tar archive on stdout
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
    /// If SOURCE is a link, copy what it leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Print one JSON object that says what was copied
    #[arg(long)]
    pub json: bool,
}
