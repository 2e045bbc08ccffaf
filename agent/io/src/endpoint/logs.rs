//! Reading a container's log: from its tail, along with its growth, across its rotation.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::future::BoxFuture;
use rustix::fs::inotify;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

use super::lines::{Formatter, Origin, Selection};

const BLOCK: usize = 32 * 1024;
/// How often a quiet log's container is asked whether it still runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks whether the container still writes.
pub(super) type Alive = Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// A log that is open: at its first chosen line, and watched if it is followed.
pub(super) struct Log {
    path: PathBuf,
    reader: Reader,
    formatter: Formatter,
    follow: Option<(Watch, Alive)>,
}

impl Log {
    /// Opens the log at `path`. With `alive` it is followed until the container is gone; a followed log may
    /// not be there yet.
    pub(super) async fn open(
        path: PathBuf,
        selection: Selection,
        alive: Option<Alive>,
    ) -> io::Result<Self> {
        let follow = match alive {
            Some(alive) => Some((Watch::new(&path)?, alive)),
            None => None,
        };
        let reader = match Reader::open(&path, selection.tail).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound && follow.is_some() => Reader::pending(),
            r => r?,
        };
        Ok(Self {
            path,
            reader,
            formatter: Formatter::new(selection),
            follow,
        })
    }

    /// Sends the chosen lines; of a followed log all that its container writes. Ends early when nobody receives.
    pub(super) async fn send(mut self, out: mpsc::Sender<(Origin, Bytes)>) -> io::Result<()> {
        let mut last = false;
        loop {
            if drain(&mut self.reader, &mut self.formatter, &out)
                .await?
                .is_none()
            {
                return Ok(());
            }
            if self.reader.reopen(&self.path).await? {
                continue;
            }
            let Some((watch, alive)) = self.follow.as_mut().filter(|_| !last) else {
                return Ok(());
            };
            tokio::select! {
                _ = out.closed() => return Ok(()),
                changed = watch.changed() => changed?,
                // One more pass after the end, for what was written meanwhile.
                () = sleep(PATIENCE) => last = !alive().await,
            }
        }
    }
}

/// Sends everything that is there. `None`: nobody receives, or the limit is reached.
async fn drain(
    reader: &mut Reader,
    formatter: &mut Formatter,
    out: &mpsc::Sender<(Origin, Bytes)>,
) -> io::Result<Option<()>> {
    while let Some(lines) = reader.lines().await? {
        let mut batch: Option<(Origin, Vec<u8>)> = None;
        for (origin, text) in lines
            .split(|b| *b == b'\n')
            .filter_map(|l| formatter.format(l))
        {
            match &mut batch {
                Some((o, b)) if *o == origin => b.extend_from_slice(&text),
                _ => {
                    if let Some((o, b)) = batch.replace((origin, text))
                        && out.send((o, b.into())).await.is_err()
                    {
                        return Ok(None);
                    }
                }
            }
        }
        if let Some((o, b)) = batch
            && out.send((o, b.into())).await.is_err()
        {
            return Ok(None);
        }
        if formatter.done() {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

/// A log file, read in whole lines.
struct Reader {
    file: Option<File>,
    /// Device and inode of the open file: what tells a rotation.
    id: Option<(u64, u64)>,
    partial: Vec<u8>,
}

impl Reader {
    fn pending() -> Self {
        Self {
            file: None,
            id: None,
            partial: Vec::new(),
        }
    }

    async fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        let id = identity(&file.metadata().await?);
        if let Some(lines) = tail {
            let at = tail_offset(&mut file, lines).await?;
            file.seek(SeekFrom::Start(at)).await?;
        }
        Ok(Self {
            file: Some(file),
            id: Some(id),
            partial: Vec::new(),
        })
    }

    /// The next whole lines, or `None` at the (current) end.
    async fn lines(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        loop {
            let before = self.partial.len();
            self.partial.reserve(BLOCK);
            if (&mut *file)
                .take(BLOCK as u64)
                .read_buf(&mut self.partial)
                .await?
                == 0
            {
                return Ok(None);
            }
            let new = self.partial.get(before..).unwrap_or_default();
            if let Some(end) = new.iter().rposition(|b| *b == b'\n') {
                let rest = self.partial.split_off(before + end + 1);
                let mut lines = std::mem::replace(&mut self.partial, rest);
                lines.pop();
                return Ok(Some(lines));
            }
        }
    }

    /// Opens the file that took this one's place; called when this one is read to its end. True if there is more to read.
    async fn reopen(&mut self, path: &Path) -> io::Result<bool> {
        let next = match self.id {
            None => found(Self::open(path, None).await)?,
            Some(id) => Self::after(path, id).await?,
        };
        let Some(next) = next else { return Ok(false) };
        // The writer has gone over to the new file; what it wrote before that still stands in the old one.
        if !self.at_end().await? {
            return Ok(true);
        }
        *self = next;
        Ok(true)
    }

    /// The file that was begun after the one with this identity. None is begun before it has a line: until then more may
    /// come in the old one.
    async fn after(path: &Path, id: (u64, u64)) -> io::Result<Option<Self>> {
        let next = || async {
            let log = path.to_owned();
            let next = tokio::task::spawn_blocking(move || crate::logs::next(&log, id));
            next.await.map_err(io::Error::other)?
        };
        loop {
            let Some(opened) = found(Self::open(&next().await?, None).await)? else {
                return Ok(None);
            };
            // Unless the log was rotated between the look and the opening.
            let now = found(tokio::fs::metadata(next().await?).await)?;
            if now.map(|m| identity(&m)) != opened.id {
                continue;
            }
            let empty = match &opened.file {
                Some(file) => file.metadata().await?.len() == 0,
                None => true,
            };
            return Ok(Some(opened).filter(|o| !empty && o.id != Some(id)));
        }
    }

    async fn at_end(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else {
            return Ok(true);
        };
        let at = file.stream_position().await?;
        Ok(at >= file.metadata().await?.len())
    }
}

/// `None` when it is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        r => r.map(Some),
    }
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

/// Where the last `lines` lines begin, read backwards from the end.
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut position = end;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while position > 0 {
        let length = position.min(BLOCK as u64);
        position -= length;
        file.seek(SeekFrom::Start(position)).await?;
        let part = block.get_mut(..length as usize).unwrap_or_default();
        file.read_exact(part).await?;
        for (i, _) in part.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let after = position + i as u64 + 1;
            // The newline at the very end closes the last line; it does not begin one.
            if after == end {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(after);
            }
        }
    }
    Ok(0)
}

/// Wakes up when something in the log's directory changes: growth and rotation alike. An inotify
/// descriptor is read like a pipe, which is the reader tokio has.
struct Watch(pipe::Receiver);

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        use inotify::{CreateFlags, WatchFlags};
        let dir = path.parent().unwrap_or(path);
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, events)?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(fd)?))
    }

    async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.0.read(&mut events).await.map(|_| ())
    }
}
