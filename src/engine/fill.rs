//! Weights into the device's memory: first what is kept of them, then the rest as it streams, each
//! weight file checked against its hash at its end.

use super::cache::{Cache, HASH, Wanted};
use super::cached::Kept;
use super::types::CacheState;
use crate::checkpoint::hash::FileHash;
use crate::checkpoint::journal::Point;
use crate::checkpoint::pack::Tag;
use crate::checkpoint::{
    ByteSource, CheckpointError, Event, Manifest, Shard, ShardStream, SourceError, StreamParser,
};
use crate::model::weights::LoadError;
use crate::model::{ModelError, WeightLoader, WeightPlan, Weights};
use crate::steps::Store;

/// Where weights go, and where they are planned to go.
pub struct Target<'a, B: Store> {
    /// Where every tensor goes.
    pub plan: &'a WeightPlan,
    /// The allocated weights.
    pub weights: &'a Weights<B>,
    /// The device.
    pub backend: &'a mut B,
}

impl Kept {
    /// Fills `target` with the weights of all files of `source`. `report` hears of the bytes that are
    /// done.
    ///
    /// # Errors
    /// What the source, the checkpoint or the device gets wrong;
    /// [`CheckpointError::Integrity`].
    pub async fn fill<S: ByteSource, B: Store>(
        &self,
        source: &S,
        manifest: &Manifest,
        target: &mut Target<'_, B>,
        cancelled: &dyn Fn() -> bool,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), LoadError<B::Error>> {
        self.check_names(manifest)?;
        let filled = self.fill_checked(source, manifest, target, cancelled, report).await;
        if let Err(LoadError::Model(error)) = &filled
            && !matches!(error, ModelError::Checkpoint(CheckpointError::Source(_)))
        {
            // Damage may lie in what was kept of the files' beginnings, too: nothing of it stays.
            self.keeper.end(None);
        }
        filled
    }

    async fn fill_checked<S: ByteSource, B: Store>(
        &self,
        source: &S,
        manifest: &Manifest,
        target: &mut Target<'_, B>,
        cancelled: &dyn Fn() -> bool,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), LoadError<B::Error>> {
        let mut other = self.begin_weights(target.plan, manifest);
        report(0);
        let from = match other {
            Some(_) => Point::default(),
            None => self.replay(manifest, target, cancelled, report).await?,
        };
        let (first, mut done) = (from.shard as usize, from.done_bytes);
        let mut loader = WeightLoader::new(target.plan, target.weights).logged(&*self.keeper);
        for (number, shard) in manifest.shards.iter().enumerate().skip(first) {
            let resumed = if number == first { from } else { Point::default() };
            // In the middle of a file there is one: see `Point::goes_on`.
            let begun = resumed.hash.and_then(FileHash::from_state);
            let mut hash = begun.or_else(|| shard.head_hash.clone().filter(|_| self.hashes_file(shard)));
            let (tensors, offset) = (resumed.tensor as usize..shard.all().end, resumed.offset);
            let mut stream = ShardStream::open_at(source, shard, tensors, offset, cancelled).await?;
            let mut parser = stream.parser()?;
            loop {
                let piece = stream.next_piece().await?;
                // What is kept in another form is given up only once something came.
                if let Some(wanted) = other.take()
                    && let Some(waiting) = self.keeper.look(Cache::before_renewing)
                {
                    waiting.await;
                    self.keeper.work(|cache| cache.renew_weights(&wanted));
                }
                let Some(piece) = piece else { break };
                let mut rest = piece.as_slice();
                if self.is_point_due(done) {
                    // A point lies between two chunks.
                    let missing = usize::try_from(parser.missing_bytes()).unwrap_or(rest.len());
                    let (chunk_end, behind) = rest.split_at(missing.min(rest.len()));
                    done += chunk_end.len() as u64;
                    take(&mut parser, &mut hash, &mut loader, target, shard, chunk_end)?;
                    loader.relieve(target.backend).await?;
                    if parser.missing_bytes() == 0 && loader.is_settled() {
                        let (tensor, offset) = parser.place();
                        let hash = hash.as_ref().map(FileHash::state);
                        let (shard, tensor) = (number as u32, tensor as u32);
                        let point =
                            Point { shard, tensor, offset, hash, done_bytes: done, ..Point::default() };
                        self.keeper.work(|cache| cache.add_point(point));
                    }
                    rest = behind;
                }
                done += rest.len() as u64;
                take(&mut parser, &mut hash, &mut loader, target, shard, rest)?;
                loader.relieve(target.backend).await?;
                self.keeper.settle();
                report(done);
            }
            parser.end(&mut |event| load_event(&mut loader, target, shard, &event))?;
            loader.relieve(target.backend).await?;
            let complete = number + 1 == manifest.shards.len();
            self.end_file(number, shard, hash, done, complete)?;
        }
        self.keeper.settle();
        Ok(())
    }

    /// Gives what is wanted, where other weights are kept: they are to be replaced by these.
    fn begin_weights(&self, plan: &WeightPlan, manifest: &Manifest) -> Option<Wanted> {
        if !self.can_be_found_again(manifest) {
            let note = "the model is not kept for next time: its server hides from pages which version of a \
                        file it sends (ETag and Last-Modified); pass the option integrity, or let the server \
                        expose ETag";
            self.keeper.end(Some(note.to_owned()));
        }
        let wanted = Wanted {
            plan: plan.fingerprint(),
            form: plan.stored_precision().into(),
            bytes: plan.device_bytes(u64::MAX).unwrap_or_default(),
            files: self.known_files(),
        };
        let begun = self.keeper.work(|cache| cache.begin_weights(&wanted));
        self.keeper.settle();
        (begun == Some(false)).then_some(wanted)
    }

    fn is_point_due(&self, done_bytes: u64) -> bool {
        self.keeper.look(|cache| cache.is_point_due(done_bytes)).unwrap_or(false)
    }

    /// Writes what is kept to the device; returns where to go on. What is damaged is forgotten, with
    /// all that follows.
    async fn replay<B: Store>(
        &self,
        manifest: &Manifest,
        target: &mut Target<'_, B>,
        cancelled: &dyn Fn() -> bool,
        report: &mut dyn FnMut(u64),
    ) -> Result<Point, LoadError<B::Error>> {
        let ends = |cache: &Cache| Some((*cache.journal.points().first()?, cache.last()?));
        let Some((first, mut last)) = self.keeper.look(ends).flatten() else { return Ok(Point::default()) };
        let loader = WeightLoader::new(target.plan, target.weights);
        let (mut payload, mut aligned) = (Vec::new(), Vec::new());
        let mut at = first.pack_bytes;
        while at < last.pack_bytes {
            if cancelled() {
                return Err(CheckpointError::from(SourceError::Aborted).into());
            }
            let begin = at;
            let read = self.keeper.look(|cache| cache.pack.read(at, last.pack_bytes, &mut payload));
            let sound = match read {
                Some(Ok((Tag { kind: HASH, row, .. }, next))) => {
                    at = next;
                    if let Some(shard) = manifest.shards.get(row as usize) {
                        self.check_hash(shard, String::from_utf8_lossy(&payload).into_owned())?;
                    }
                    true
                }
                Some(Ok((tag, next))) => {
                    at = next;
                    loader.replay(target.backend, tag, &payload, &mut aligned)?
                }
                _ => false,
            };
            if !sound {
                self.keeper.work(|cache| cache.go_back(|point| point.pack_bytes <= begin));
                last = self.keeper.look(ends).flatten().map_or_else(Point::default, |(_, last)| last);
                break;
            }
            target.backend.relieve().await.map_err(LoadError::Backend)?;
            let share = (at - first.pack_bytes) as f64 / (last.pack_bytes - first.pack_bytes) as f64;
            report((last.done_bytes as f64 * share) as u64);
        }
        let state = match last {
            Point { complete: true, .. } => CacheState::Loaded,
            Point { done_bytes: 0, .. } => CacheState::Stored,
            _ => CacheState::Resumed,
        };
        if self.keeper.is_on() {
            self.keeper.set_state(state);
        }
        Ok(last)
    }

    fn end_file(
        &self,
        number: usize,
        shard: &Shard,
        hash: Option<FileHash>,
        done_bytes: u64,
        complete: bool,
    ) -> Result<(), CheckpointError> {
        let hash = hash.map(FileHash::finish);
        if let Some(hash) = &hash {
            self.check_hash(shard, hash.clone())?;
        }
        let point = Point { shard: number as u32 + 1, done_bytes, complete, ..Point::default() };
        self.keeper.work(|cache| cache.end_file(number as u32, &hash.unwrap_or_default(), point));
        Ok(())
    }
}

/// Passes bytes of a weight file on.
fn take<B: Store>(
    parser: &mut StreamParser,
    hash: &mut Option<FileHash>,
    loader: &mut WeightLoader<'_, B>,
    target: &mut Target<'_, B>,
    shard: &Shard,
    bytes: &[u8],
) -> Result<(), LoadError<B::Error>> {
    if let Some(hash) = hash {
        hash.update(bytes);
    }
    parser.write(bytes, &mut |event| load_event(loader, target, shard, &event))
}

fn load_event<B: Store>(
    loader: &mut WeightLoader<'_, B>,
    target: &mut Target<'_, B>,
    shard: &Shard,
    event: &Event,
) -> Result<(), LoadError<B::Error>> {
    match event {
        Event::Chunk(chunk) => loader.write(target.backend, &shard.file, chunk),
        _ => Ok(()),
    }
}
