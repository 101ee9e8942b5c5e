//! Whatever a model comes from: files somewhere, or a merge of others. One type, so that the code
//! that loads and merges is compiled once.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;

use super::source::{WebSource, WebStream};
use super::stream::turn;
use crate::checkpoint::{ByteSource, ByteStream, Opened, SourceError};
use crate::engine::cached::{CachedSource, CachedStream, Kept};
use crate::merge::{Merge, MergedStream};

/// A checkpoint, or a merge that is computed while it is read.
#[derive(Clone)]
pub enum AnySource {
    /// Files somewhere, and what is kept of them.
    Files(Rc<CachedSource<WebSource>>),
    /// A merge.
    Merge(Merge<AnySource>),
}

impl AnySource {
    /// Files somewhere, and what is kept of them.
    pub fn files(source: WebSource, kept: Rc<Kept>) -> AnySource {
        AnySource::Files(Rc::new(CachedSource::new(source, kept)))
    }
}

/// One file of [`AnySource`].
pub enum AnyStream {
    /// As it lies there.
    Files(CachedStream<WebStream>),
    /// As it is computed.
    Merge(Box<MergedStream<AnySource>>),
}

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Opened<MergedStream<AnySource>>, SourceError>> + 'a>>;
type Next<'a> = Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>, SourceError>> + 'a>>;

impl ByteSource for AnySource {
    type Stream = AnyStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<AnyStream>, SourceError> {
        match self {
            AnySource::Files(source) => Ok(source.open(file, range).await?.map(AnyStream::Files)),
            AnySource::Merge(merge) => {
                // A merge opens its parents in turn: without a box the future would contain itself.
                let opening: Opening = Box::pin(merge.open(file, range));
                Ok(opening.await?.map(|stream| AnyStream::Merge(Box::new(stream))))
            }
        }
    }

    async fn list(&self) -> Vec<String> {
        match self {
            AnySource::Files(source) => source.list().await,
            AnySource::Merge(_) => Vec::new(),
        }
    }

    async fn turn(&self) {
        turn().await;
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            AnySource::Files(_) => 0,
            AnySource::Merge(merge) => merge.memory_bytes(),
        }
    }
}

impl ByteStream for AnyStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            AnyStream::Files(stream) => stream.next().await,
            AnyStream::Merge(stream) => {
                let next: Next = Box::pin(stream.next());
                next.await
            }
        }
    }
}
