//! The state of the device, as a template keeps it: that of a guest that has mounted nothing.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use virtiofsd::filesystem::SerializableFileSystem;

use super::ShareFs;

impl SerializableFileSystem for ShareFs {
    fn prepare_serialization(&self, cancel: Arc<AtomicBool>) {
        self.inner.prepare_serialization(cancel);
    }

    fn serialize(&self, state: File) -> io::Result<()> {
        if !self.nodes().is_empty() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the guest has mounted the shares"));
        }
        self.inner.serialize(state)
    }

    fn deserialize_and_apply(&self, state: File) -> io::Result<()> {
        self.inner.deserialize_and_apply(state)?;
        self.nodes().clear();
        Ok(())
    }
}
