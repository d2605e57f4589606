//! The file system the guest talks to: virtiofsd's, with everything refused that a share must not let through.
//!
//! Root in the guest writes the requests byte by byte, so nothing about them is taken for granted:
//!
//! - **Names** are one component: no `/`, not `.`, not `..`. Paths are walked by the guest, never by the host.
//! - **Set-user-id and set-group-id bits** set by the guest are dropped, silently, as on a `nosuid` disk nobody would
//!   miss them. The ways a mode can reach the host are create, mkdir, mknod and setattr; there are no POSIX ACLs, no
//!   extended attributes, no ioctl and no tmpfile in this file system, and copying ranges copies no modes. A
//!   directory may keep a set-group-id bit it has already: it was made on the host, gives nobody a privilege, and
//!   shared git repositories live on it. On files the daemon has no `FSETID`, so the kernel clears both bits whenever
//!   the guest writes to them.
//! - **Device nodes** are refused, the 0:0 one of `RENAME_WHITEOUT` included. FIFOs and sockets are as harmless as
//!   files, since the host never opens them.
//! - **Owners** never change: chown succeeds and does nothing. Everything the guest makes belongs to the host user.
//! - **Extended attributes** don't exist. `security.capability` would be a set-user-id bit by another name, and
//!   without any, the guest's kernel learns after one request not to ask for them at every exec, write and `ls -l`.

mod checks;
mod state;

use std::ffi::CStr;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;

use crate::coherence::{is_coherent, timeout};
use crate::gather::Plain;
use crate::guard::{Guard, Made};
use crate::nodes::{Nodes, Whereabouts};
use crate::stamp::settled_stamp;

use checks::{believed, check_name, identity_of, without_set_id};
pub(crate) use checks::{errno, host_context};

type Handle = <PassthroughFs as FileSystem>::Handle;
type DirIter = <PassthroughFs as FileSystem>::DirIter;

/// How long the guest may believe that a file does not exist, without asking again.
pub(crate) const ABSENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many directories deep a path may be for a file that is away to be found again.
const MAX_DEPTH: usize = 4096;

/// The flags of open that mean something here. Absent: those that create files or path descriptors (create is a
/// request of its own, and gets `O_CREAT` from virtiofsd), and direct I/O, which the guest's page cache replaces.
const OPEN_FLAGS: u32 = (libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_EXCL
    | libc::O_NONBLOCK
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC) as u32;

/// virtiofsd's file system, kept within the rules above and within a number of open files.
pub(crate) struct ShareFs {
    pub(crate) inner: PassthroughFs,
    nodes: Mutex<Nodes>,
    plain: Plain,
    pub(crate) guard: Guard,
}

/// A node in use: it stays live as long as this exists.
pub(crate) struct Pinned<'a> {
    fs: &'a ShareFs,
    pub(crate) number: u64,
    pub(crate) inner: u64,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.fs.update(|nodes, forgotten| nodes.unpin(self.number, forgotten));
    }
}

impl ShareFs {
    /// Wraps `inner`, of which at most about `budget` files are kept by descriptor.
    pub(crate) fn new(inner: PassthroughFs, budget: usize, guard: Guard) -> Self {
        Self { inner, nodes: Mutex::new(Nodes::new(budget)), plain: Plain::default(), guard }
    }

    pub(crate) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // Every change leaves the table whole, so a panic elsewhere is no reason to stop.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table and lets virtiofsd forget what the table let go of.
    fn update<T>(&self, change: impl FnOnce(&mut Nodes, &mut Vec<u64>) -> T) -> T {
        let mut forgotten = Vec::new();
        let result = change(&mut self.nodes(), &mut forgotten);
        for inner in forgotten {
            self.inner.forget(host_context(), inner, 1);
        }
        result
    }

    /// Makes a node live, if it is not, and keeps it so.
    pub(crate) fn reach(&self, number: u64) -> io::Result<Pinned<'_>> {
        // What is away is found from the nearest live directory above it, which is where the loop ends.
        let mut away = Vec::new();
        let mut next = number;
        let mut nearest = loop {
            let pinned = |inner| Pinned { fs: self, number: next, inner };
            let whereabouts = self.nodes().pin(next);
            match whereabouts {
                Some(Whereabouts::Live(inner)) => break pinned(inner),
                Some(Whereabouts::Away { parent, name, identity }) => {
                    // It has no number in virtiofsd yet, but as a guard it is unpinned whatever happens.
                    away.push((pinned(0), name, identity));
                    next = parent;
                }
                Some(Whereabouts::Lost) => return Err(errno(libc::ESTALE)),
                None if away.is_empty() => return Err(errno(libc::EBADF)),
                None => return Err(errno(libc::ESTALE)),
            }
            if away.len() > MAX_DEPTH {
                return Err(errno(libc::ESTALE));
            }
        };
        while let Some((mut node, name, identity)) = away.pop() {
            self.make_room();
            let entry = match self.inner.lookup(host_context(), nearest.inner, &name) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Err(errno(libc::ESTALE)),
                result => result?,
            };
            if identity_of(&entry) != identity {
                self.inner.forget(host_context(), entry.inode, 1);
                return Err(errno(libc::ESTALE));
            }
            self.update(|nodes, forgotten| nodes.revive(node.number, entry.inode, forgotten));
            node.inner = entry.inode;
            nearest = node;
        }
        Ok(nearest)
    }

    fn make_room(&self) {
        self.update(Nodes::make_room);
    }

    /// Gives the guest its own number for what was found.
    fn learn(&self, parent: u64, name: &CStr, mut entry: Entry) -> Entry {
        entry.inode =
            self.update(|nodes, forgotten| nodes.learn(parent, name, entry.inode, identity_of(&entry), forgotten));
        self.plain.learn(parent, &mut entry);
        believed(entry)
    }

    /// The directory a name is to be made in, with room for what will be made.
    fn directory(&self, parent: u64, name: &CStr) -> io::Result<Pinned<'_>> {
        check_name(name)?;
        let directory = self.reach(parent)?;
        self.make_room();
        Ok(directory)
    }

    /// The mode to set: see the rules of this module.
    fn permitted_mode(&self, inner: u64, mode: u32) -> io::Result<u32> {
        let plain = without_set_id(mode);
        if mode & libc::S_ISGID == 0 {
            return Ok(plain);
        }
        let (now, _) = self.inner.getattr(host_context(), inner, None)?;
        let keeps = now.mode & libc::S_IFMT == libc::S_IFDIR && now.mode & libc::S_ISGID != 0;
        Ok(if keeps { plain | libc::S_ISGID } else { plain })
    }

    /// What create does with a file that exists.
    fn open_existing(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        kill_privileges: bool,
        flags: u32,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let entry = self.lookup(context, parent, name)?;
        if entry.inode == 0 {
            return Err(errno(libc::ENOENT));
        }
        match self.open(context, entry.inode, kill_privileges, flags) {
            Ok((handle, options)) => Ok((entry, handle, options)),
            Err(error) => {
                self.forget(context, entry.inode, 1);
                Err(error)
            }
        }
    }

    /// Notes that a handle keeps a node in use, until [`ShareFs::closed`].
    fn opened(&self, node: u64, handle: Option<Handle>) {
        if handle.is_some() {
            self.nodes().pin_again(node);
        }
    }

    fn closed(&self, node: u64) {
        self.update(|nodes, forgotten| nodes.unpin(node, forgotten));
    }
}

/// Requests about one node, and nothing else to check.
macro_rules! pass_on {
    ($(fn $name:ident $(<$generic:ident: $bound:path>)? ($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            fn $name $(<$generic: $bound>)? (&self, context: Context, inode: u64 $(, $argument: $type)*)
                -> io::Result<$result>
            {
                let node = self.reach(inode)?;
                self.inner.$name(context, node.inner $(, $argument)*)
            }
        )*
    };
}

impl FileSystem for ShareFs {
    type Inode = u64;
    type Handle = Handle;
    type DirIter = DirIter;

    pass_on! {
        fn readlink() -> Vec<u8>;
        fn read<W: ZeroCopyWriter>(
            handle: Handle, writer: W, size: u32, offset: u64, lock_owner: Option<u64>, flags: u32
        ) -> usize;
        fn write<R: ZeroCopyReader>(
            handle: Handle, reader: R, size: u32, offset: u64, lock_owner: Option<u64>, delayed_write: bool,
            kill_privileges: bool, flags: u32
        ) -> usize;
        fn fsync(datasync: bool, handle: Handle) -> ();
        fn fsyncdir(datasync: bool, handle: Handle) -> ();
        fn fallocate(handle: Handle, mode: u32, offset: u64, length: u64) -> ();
        fn statfs() -> libc::statvfs64;
        fn setxattr(name: &CStr, value: &[u8], flags: u32, extra_flags: SetxattrFlags) -> ();
        fn getxattr(name: &CStr, size: u32) -> GetxattrReply;
        fn listxattr(size: u32) -> ListxattrReply;
        fn removexattr(name: &CStr) -> ();
        fn readdir(handle: Handle, size: u32, offset: u64) -> DirIter;
        fn access(mask: u32) -> ();
        fn lseek(handle: Handle, offset: u64, whence: u32) -> u64;
        fn syncfs() -> ();
    }

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let options = self.inner.init(capable)?;
        self.nodes().clear();
        self.plain.clear();
        Ok(options)
    }

    fn destroy(&self) {
        self.inner.destroy();
        self.nodes().clear();
    }

    fn lookup(&self, context: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let directory = self.directory(parent, name)?;
        match self.inner.lookup(context, directory.inner, name) {
            Ok(entry) => Ok(self.learn(parent, name, entry)),
            // Number 0 tells the guest that it may remember the absence.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Entry {
                inode: 0,
                generation: 0,
                attr: fuse::Attr::default(),
                attr_timeout: Duration::ZERO,
                entry_timeout: timeout(parent, ABSENCE_TIMEOUT),
            }),
            Err(error) => Err(error),
        }
    }

    fn forget(&self, _context: Context, inode: u64, count: u64) {
        self.update(|nodes, forgotten| nodes.forget(inode, count, forgotten));
    }

    fn batch_forget(&self, _context: Context, requests: Vec<(u64, u64)>) {
        self.update(|nodes, forgotten| {
            for (inode, count) in requests {
                nodes.forget(inode, count, forgotten);
            }
        });
    }

    fn getattr(&self, context: Context, inode: u64, handle: Option<Handle>) -> io::Result<(fuse::Attr, Duration)> {
        let node = self.reach(inode)?;
        let (attributes, usual) = self.inner.getattr(context, node.inner, handle)?;
        Ok((attributes, timeout(inode, usual)))
    }

    fn setattr(
        &self,
        context: Context,
        inode: u64,
        mut attributes: fuse::SetattrIn,
        handle: Option<Handle>,
        mut valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let node = self.reach(inode)?;
        let _guarded = self.may_set(inode, valid)?;
        if valid.contains(SetattrValid::MODE) {
            attributes.mode = self.permitted_mode(node.inner, attributes.mode)?;
        }
        valid.remove(SetattrValid::UID | SetattrValid::GID);
        let (attributes, usual) = self.inner.setattr(context, node.inner, attributes, handle, valid)?;
        Ok((attributes, timeout(inode, usual)))
    }

    fn symlink(
        &self,
        _context: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        _extensions: Extensions,
    ) -> io::Result<Entry> {
        let directory = self.directory(parent, name)?;
        let _guarded = self.may_make(&directory, name, Made::Link)?;
        let entry = self.inner.symlink(host_context(), target, directory.inner, name, Extensions::default())?;
        Ok(self.learn(parent, name, entry))
    }

    fn mknod(
        &self,
        _context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _device: u32,
        umask: u32,
        _extensions: Extensions,
    ) -> io::Result<Entry> {
        if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK) {
            return Err(errno(libc::EPERM));
        }
        let directory = self.directory(parent, name)?;
        let _guarded = self.may_make(&directory, name, Made::File)?;
        let (mode, extensions) = (without_set_id(mode), Extensions::default());
        let entry = self.inner.mknod(host_context(), directory.inner, name, mode, 0, umask, extensions)?;
        Ok(self.learn(parent, name, entry))
    }

    fn mkdir(
        &self,
        _context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        _extensions: Extensions,
    ) -> io::Result<Entry> {
        let directory = self.directory(parent, name)?;
        let _guarded = self.may_make(&directory, name, Made::Directory)?;
        let (mode, extensions) = (without_set_id(mode), Extensions::default());
        let entry = self.inner.mkdir(host_context(), directory.inner, name, mode, umask, extensions)?;
        Ok(self.learn(parent, name, entry))
    }

    fn create(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_privileges: bool,
        flags: u32,
        umask: u32,
        _extensions: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let directory = self.directory(parent, name)?;
        let guarded = match self.may_make(&directory, name, Made::File) {
            // What exists may be opened to be read, and what it is opened for is looked at then.
            Err(refused) if flags & libc::O_EXCL as u32 == 0 => {
                return self
                    .open_existing(context, parent, name, kill_privileges, flags)
                    .map_err(|error| if error.raw_os_error() == Some(libc::ENOENT) { refused } else { error });
            }
            guarded => guarded?,
        };
        // Left to itself, virtiofsd opens a file that exists already, and if it can't, never forgets it again.
        let exclusive = flags & OPEN_FLAGS | libc::O_EXCL as u32;
        let (mode, extensions) = (without_set_id(mode), Extensions::default());
        let created = self.inner.create(
            host_context(),
            directory.inner,
            name,
            mode,
            kill_privileges,
            exclusive,
            umask,
            extensions,
        );
        let (mut entry, handle, options) = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && flags & libc::O_EXCL as u32 == 0 => {
                drop(guarded);
                return self.open_existing(context, parent, name, kill_privileges, flags);
            }
            result => result?,
        };
        entry.inode = self.update(|nodes, forgotten| {
            let number = nodes.learn(parent, name, entry.inode, identity_of(&entry), forgotten);
            if handle.is_some() {
                nodes.pin_again(number);
            }
            number
        });
        Ok((believed(entry), handle, options))
    }

    fn unlink(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        let directory = self.directory(parent, name)?;
        self.may_remove(&directory, name)?;
        self.inner.unlink(context, directory.inner, name)?;
        self.update(|nodes, forgotten| nodes.removed(parent, name, forgotten));
        Ok(())
    }

    fn rmdir(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        let directory = self.directory(parent, name)?;
        self.may_remove(&directory, name)?;
        self.inner.rmdir(context, directory.inner, name)?;
        self.update(|nodes, forgotten| nodes.removed(parent, name, forgotten));
        Ok(())
    }

    fn rename(
        &self,
        context: Context,
        old_parent: u64,
        old_name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(errno(libc::EINVAL));
        }
        let old_directory = self.directory(old_parent, old_name)?;
        let new_directory = self.directory(new_parent, new_name)?;
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        let _guarded = self.may_rename((&old_directory, old_name), (&new_directory, new_name), exchange)?;
        self.inner.rename(context, old_directory.inner, old_name, new_directory.inner, new_name, flags)?;
        self.update(|nodes, forgotten| {
            nodes.renamed((old_parent, old_name), (new_parent, new_name), exchange, forgotten);
        });
        Ok(())
    }

    fn link(&self, context: Context, inode: u64, new_parent: u64, new_name: &CStr) -> io::Result<Entry> {
        let node = self.reach(inode)?;
        let directory = self.directory(new_parent, new_name)?;
        let _guarded = self.may_link(&node, &directory, new_name)?;
        let entry = self.inner.link(context, node.inner, directory.inner, new_name)?;
        Ok(self.learn(new_parent, new_name, entry))
    }

    fn open(
        &self,
        context: Context,
        inode: u64,
        kill_privileges: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let node = self.reach(inode)?;
        // Without O_CREAT, O_EXCL has no defined meaning.
        let flags = flags & OPEN_FLAGS & !(libc::O_EXCL as u32);
        let _guarded = self.may_open(inode, flags)?;
        let (handle, mut options) = self.inner.open(context, node.inner, kill_privileges, flags)?;
        self.opened(inode, handle);
        let stamp = self
            .inner
            .getattr(host_context(), node.inner, None)
            .ok()
            .and_then(|(attributes, _)| settled_stamp(&attributes, SystemTime::now()));
        // The guest drops what it has cached of the file unless told that it is still good.
        options.set(OpenOptions::KEEP_CACHE, self.nodes().unchanged(inode, stamp) && !is_coherent(inode));
        Ok((handle, options))
    }

    /// The first answer makes the guest never ask again: a quarter of what it takes to open, read and close a small
    /// file. Nothing is lost on a host's disk, where closing does nothing and data has been written before. On a
    /// network file system, an error that shows only when a file is closed does not reach the guest.
    fn flush(&self, _context: Context, _inode: u64, _handle: Handle, _lock_owner: u64) -> io::Result<()> {
        Err(errno(libc::ENOSYS))
    }

    fn opendir(&self, context: Context, inode: u64, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)> {
        let node = self.reach(inode)?;
        let flags = flags & OPEN_FLAGS & !(libc::O_EXCL as u32);
        let (handle, options) = self.inner.opendir(context, node.inner, flags)?;
        self.opened(inode, handle);
        Ok((handle, options))
    }

    fn release(
        &self,
        context: Context,
        inode: u64,
        flags: u32,
        handle: Handle,
        flush: bool,
        unlock: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        let node = self.reach(inode)?;
        self.inner.release(context, node.inner, flags, handle, flush, unlock, lock_owner)?;
        self.closed(inode);
        Ok(())
    }

    fn releasedir(&self, context: Context, inode: u64, flags: u32, handle: Handle) -> io::Result<()> {
        let node = self.reach(inode)?;
        self.inner.releasedir(context, node.inner, flags, handle)?;
        self.closed(inode);
        Ok(())
    }

    fn copyfilerange(
        &self,
        context: Context,
        source: u64,
        source_handle: Handle,
        source_offset: u64,
        target: u64,
        target_handle: Handle,
        target_offset: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        let source = self.reach(source)?;
        let target = self.reach(target)?;
        self.inner.copyfilerange(
            context,
            source.inner,
            source_handle,
            source_offset,
            target.inner,
            target_handle,
            target_offset,
            length,
            flags,
        )
    }
}

#[cfg(test)]
mod tests;
