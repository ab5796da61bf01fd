//! The spool without servers, in paused time.

use super::*;
use futures_util::FutureExt;

const STALL: Duration = Duration::from_secs(5);

fn spool(memory: usize, directory: Option<&Path>, size: u64) -> Arc<Spool> {
    let directory = directory.map(|directory| directory.to_str().unwrap().to_owned());
    Arc::new(Spool::new(&SpoolConfig { directory, size }, Arc::new(Memory::new(memory))))
}

/// A chunk of one user that hardly compresses.
fn chunk(seed: u64, bytes: usize) -> Vec<User> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let raw_json = std::iter::repeat_with(|| rng.alphanumeric()).take(bytes).collect();
    vec![User {
        id: seed.to_string().into(),
        raw_json,
        name: None,
        email: None,
        created_at: None,
        updated_at: None,
        deleted_at: None,
        updated_at_derived: false,
    }]
}

async fn ids(rows: &mut RowReceiver) -> Result<Vec<String>, Interruption> {
    let mut ids = Vec::new();
    while let Some(users) = rows.next().await? {
        ids.extend(users.iter().map(|user| user.id.to_string()));
    }
    Ok(ids)
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_memory_has_no_room_for_goes_to_a_file_and_everything_is_freed_as_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let spool = spool(100_000, Some(directory.path()), 10 << 20);
    let mut scan = spool.begin(STALL, true);
    let (sender, mut rows) = scan.queue();
    for seed in 0..50 {
        scan.send(&sender, chunk(seed, 8_000)).await;
    }
    sender.finish();
    assert!(spool.budget.memory_waiting() <= 100_000 / 8);
    assert!(spool.budget.disk_used() >= 300_000);
    // The file is there, but has no name.
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    drop(scan);
    assert_eq!(ids(&mut rows).await, Ok(numbers(0..50)));
    assert_eq!((spool.budget.memory_waiting(), spool.budget.disk_used()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_interrupts_the_slowest_reader_only() {
    let directory = tempfile::tempdir().unwrap();
    for directory in [None, Some(directory.path())] {
        let spool = spool(100_000, directory, 64 << 10);
        let mut scan = spool.begin(STALL, true);
        let (hanging, mut hanging_rows) = scan.queue();
        let (healthy, mut healthy_rows) = scan.queue();
        let taking = tokio::spawn(async move { ids(&mut healthy_rows).await });
        for seed in 0..50 {
            scan.send(&hanging, chunk(seed, 8_000)).await;
            scan.send(&healthy, chunk(seed, 8_000)).await;
        }
        assert!(!hanging.is_open() && healthy.is_open());
        healthy.finish();
        assert_eq!(taking.await.unwrap(), Ok(numbers(0..50)));
        assert_eq!(ids(&mut hanging_rows).await, Err(Interruption::SpoolFull));
        assert_eq!((spool.budget.memory_waiting(), spool.budget.disk_used()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_interrupts_the_slowest_reader_only() {
    let directory = tempfile::tempdir().unwrap();
    let spool = spool(100_000, Some(directory.path()), 1 << 30);
    let mut scan = spool.begin(STALL, true);
    scan.file = Some(Arc::new(SpoolFile::on_full_disk(spool.budget.clone())));
    let (hanging, mut hanging_rows) = scan.queue();
    let (healthy, mut healthy_rows) = scan.queue();
    let taking = tokio::spawn(async move { ids(&mut healthy_rows).await });
    for seed in 0..50 {
        scan.send(&hanging, chunk(seed, 8_000)).await;
        scan.send(&healthy, chunk(seed, 8_000)).await;
    }
    healthy.finish();
    assert!(scan.has_failed);
    assert_eq!(taking.await.unwrap(), Ok(numbers(0..50)));
    assert_eq!(ids(&mut hanging_rows).await, Err(Interruption::SpoolFull));
    assert_eq!((spool.budget.memory_waiting(), spool.budget.disk_used()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_an_earlier_scan_that_hangs_leaves_room_for_the_next_scan() {
    let spool = spool(1_000_000, None, 1);
    let mut first = spool.begin(STALL, true);
    let (sender, mut hanging) = first.queue();
    for seed in 0..15 {
        first.send(&sender, chunk(seed, 8_000)).await;
    }
    sender.finish();
    drop(first);
    let mut second = spool.begin(STALL, true);
    let (sender, mut rows) = second.queue();
    let taking = tokio::spawn(async move { ids(&mut rows).await });
    for seed in 0..50 {
        second.send(&sender, chunk(seed, 8_000)).await;
    }
    sender.finish();
    assert_eq!(taking.await.unwrap(), Ok(numbers(0..50)));
    assert_eq!(ids(&mut hanging).await, Err(Interruption::SpoolFull));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_alone_may_take_its_time_but_not_stop() {
    let spool = spool(100_000, None, 1);
    let mut scan = spool.begin(STALL, true);
    let (sender, mut rows) = scan.queue();
    let taking = tokio::spawn(async move {
        for _ in 0..40 {
            assert!(rows.next().await.unwrap().is_some());
            tokio::time::sleep(STALL / 2).await;
        }
        tokio::time::sleep(STALL * 20).await;
        rows.next().await.err()
    });
    for seed in 0..100 {
        scan.send(&sender, chunk(seed, 8_000)).await;
        assert!(seed >= 40 || sender.is_open(), "{seed}");
    }
    assert_eq!(taking.await.unwrap(), Some(Interruption::SpoolFull));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_leaves_if_a_tenant_waits_for_the_next_scan() {
    let spool = spool(100_000, None, 1);
    let mut scan = spool.begin(STALL, true);
    let (sender, mut rows) = scan.queue();
    let _waiting = spool.wait_for_scan();
    let taking = tokio::spawn(async move {
        loop {
            if let Err(why) = rows.next().await {
                return why;
            }
            tokio::time::sleep(STALL / 2).await;
        }
    });
    for seed in 0..100 {
        scan.send(&sender, chunk(seed, 8_000)).await;
    }
    assert_eq!(taking.await.unwrap(), Interruption::SpoolFull);
}

/// Without a directory, two readers that are ten times slower than the source both finish.
#[tokio::test(start_paused = true)]
async fn readers_that_are_equally_slow_set_the_pace_without_a_directory() {
    let spool = spool(1_000_000, None, 1);
    let mut scan = spool.begin(STALL, true);
    let mut senders = Vec::new();
    let taking: Vec<_> = [0, 1]
        .into_iter()
        .map(|_| {
            let (sender, mut rows) = scan.queue();
            senders.push(sender);
            tokio::spawn(async move {
                let mut taken = 0;
                while rows.next().await?.is_some() {
                    taken += 1;
                    tokio::time::sleep(STALL / 2).await;
                }
                Ok::<_, Interruption>(taken)
            })
        })
        .collect();
    for seed in 0..200 {
        for sender in &senders {
            scan.send(sender, chunk(seed, 8_000)).await;
        }
    }
    senders.into_iter().for_each(RowSender::finish);
    for taking in taking {
        assert_eq!(taking.await.unwrap(), Ok(200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_may_not_leave_is_waited_for() {
    let spool = spool(100_000, None, 1);
    let mut scan = spool.begin(STALL, false);
    let (sender, mut rows) = scan.queue();
    let taking = tokio::spawn(async move {
        tokio::time::sleep(STALL * 20).await;
        ids(&mut rows).await
    });
    for seed in 0..50 {
        scan.send(&sender, chunk(seed, 8_000)).await;
    }
    sender.finish();
    assert_eq!(taking.await.unwrap(), Ok(numbers(0..50)));
}

#[tokio::test(start_paused = true)]
async fn a_row_larger_than_everything_still_passes() {
    let spool = spool(10_000, None, 1);
    let mut scan = spool.begin(STALL, true);
    let (sender, mut rows) = scan.queue();
    scan.send(&sender, chunk(1, 1 << 20)).await;
    sender.finish();
    assert_eq!(ids(&mut rows).await, Ok(numbers(1..2)));
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_written_leaves_memory_only() {
    let spool = spool(100_000, Some(Path::new("/dev/null/spool")), 1 << 30);
    let mut scan = spool.begin(STALL, true);
    let (sender, mut rows) = scan.queue();
    let taking = tokio::spawn(async move { ids(&mut rows).await });
    for seed in 0..50 {
        scan.send(&sender, chunk(seed, 8_000)).await;
    }
    sender.finish();
    assert_eq!(taking.await.unwrap(), Ok(numbers(0..50)));
    let config = SpoolConfig { directory: Some("/dev/null/spool".into()), size: 1 };
    assert!(try_directory(&config).unwrap_err().starts_with("/dev/null/spool: "));
}

#[tokio::test]
async fn a_scan_that_ends_early_tells_its_readers_why() {
    let spool = spool(100_000, None, 1);
    let mut scan = spool.begin(STALL, true);
    let (broken, mut rows) = scan.queue();
    scan.send(&broken, chunk(1, 10)).await;
    drop(broken);
    assert_eq!(ids(&mut rows).await, Err(Interruption::BrokenOff));
    let (aborted, mut rows) = scan.queue();
    aborted.interrupt(Interruption::LockAwaited);
    assert_eq!(rows.next().now_or_never().unwrap().err(), Some(Interruption::LockAwaited));
    let (left, rows) = scan.queue();
    scan.send(&left, chunk(1, 10)).await;
    drop(rows);
    assert!(!left.is_open());
    assert_eq!(spool.budget.memory_waiting(), 0);
}

#[test]
fn the_chunks_of_any_number_of_readers_fit_into_an_eighth_of_the_memory() {
    let spool = spool(256 << 20, None, 1);
    for readers in [1, 256, 1_000, 8_000] {
        let bytes = spool.begin(STALL, true).chunk_bytes(readers);
        assert!(
            (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&bytes) && bytes * readers <= 32 << 20,
            "{readers}: {bytes}"
        );
    }
}
