//! What a `devcontainer.json` of anyone may make of its reader, for the tests and the fuzz target.

#[allow(dead_code)]
#[path = "../../src/devcontainer/file.rs"]
mod file;

/// Reads any bytes; whatever is accepted keeps to the limits, and what is refused is so in few words.
pub fn any_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match file::parse(text) {
        Ok(file) => {
            assert!(file.mounts.len() <= 256 && file.ports.len() <= 256 && file.commands.len() <= 256);
            assert!(file.mounts.iter().all(|mount| !mount.target.is_empty()));
            let texts = file.image.iter().chain(&file.remote_user).chain(&file.workspace_folder);
            assert!(
                texts.chain(file.container_env.values()).all(|text| text.len() <= 64 << 10 && !text.contains('\0'))
            );
        }
        Err(why) => assert!(!why.is_empty()),
    }
    // Comments change nothing.
    if let Ok(plain) = serde_json::from_str::<serde_json::Value>(text)
        && !text.starts_with('\u{feff}')
    {
        let commented = format!("// first\n{text}/* last */");
        assert_eq!(file::parse(&commented).is_ok(), file::parse(&plain.to_string()).is_ok());
    }
}
