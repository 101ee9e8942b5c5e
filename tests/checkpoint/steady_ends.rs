//! What ends early ends everything: failures, aborts, and streams that are dropped.

use bise::checkpoint::{ByteSource, ByteStream, SourceError};

use crate::script::{FILE, Play, Script};
use crate::steady::{primed, read};

#[test]
fn a_permanent_failure_ends_all_ranges() {
    for (play, what) in [(Play::Status(403, None), "403"), (Play::Wrong, "bytes 4999-5998/9000")] {
        let source = primed(Script::new(9000, move |_, asked| match asked.range.clone().unwrap().start {
            5000 => play.clone(),
            _ => Play::Serve,
        }));
        let script = source.transport();
        script.clock.clone().run(async {
            let mut stream = source.open(FILE, Some(0..9000)).await.unwrap().stream;
            let error = loop {
                match stream.next().await {
                    Ok(piece) => assert!(piece.is_some()),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains(what) && error.to_string().contains("byte 5000"), "{error}");
            let (open, asked, sent) = (script.open.get(), script.asked().len(), script.sent.get());
            assert_eq!(open, 0, "connections after the error");
            assert_eq!(stream.next().await, Ok(None));
            script.clock.sleep(100_000).await;
            assert_eq!((script.asked().len(), script.sent.get()), (asked, sent), "silence");
        });
    }
}

#[test]
fn an_abort_ends_a_wait_at_once() {
    let source =
        primed(Script::new(
            9000,
            |n, _| if n < 3 { Play::Serve } else { Play::Status(503, Some("60".into())) },
        ));
    let script = source.transport();
    let (clock, ended) = (script.clock.clone(), script.ended.clone());
    clock.clone().run(async {
        let mut stream = source.open(FILE, Some(0..9000)).await.unwrap().stream;
        let reading = async {
            while stream.next().await?.is_some() {}
            Ok::<_, SourceError>(())
        };
        let stopping = async {
            clock.sleep(2000).await;
            ended.set(true);
            clock.sleep(1).await;
        };
        let (result, ()) = futures_util::future::join(reading, stopping).await;
        assert_eq!(result, Err(SourceError::Aborted));
        assert!((2000..2100).contains(&clock.now.get()), "{} ms", clock.now.get());
        assert_eq!(script.open.get(), 0);
    });
}

#[test]
fn what_is_dropped_ends() {
    let source = primed(Script::new(9000, |_, _| Play::Serve));
    let script = source.transport();
    script.clock.clone().run(async {
        let mut stream = source.open(FILE, Some(0..9000)).await.unwrap().stream;
        stream.next().await.unwrap();
        assert!(script.open.get() > 1);
        drop(stream);
        assert_eq!(script.open.get(), 0);
    });
}

/// Where its hash is compared, servers need not agree on what they call a file; another file's is not.
#[test]
fn a_file_that_is_hashed_may_have_several_names() {
    let changes = |n: usize, _: &_| Play::Tagged(if n < 2 { "\"1\"" } else { "\"2\"" }.into());
    let hashing = |file: &str| Script::new(5000, changes).steady().hashing(vec![file.into()]);
    read(&hashing(FILE), Some(0..5000)).unwrap();
    assert!(matches!(read(&hashing("other"), Some(0..5000)), Err(SourceError::Changed { .. })));
}
