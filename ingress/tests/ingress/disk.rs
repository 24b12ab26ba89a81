//! A disk that is full: the operator hears of it, and of the room there is again.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use futures::StreamExt as _;
use http::StatusCode;
use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::{IngressFailure, IngressReport, StoreFailure};
use tidegate_cloudevents::Event;
use tidegate_ingress::Limits;
use tidegate_test_broker::{LIMIT, TestBroker, topic};

use crate::support::{Running, events, limits, start_with};

/// A file system in memory, of few bytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`: this machine does not let us.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap().keep();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.0).unwrap();
        found.f_bavail * found.f_frsize
    }

    fn grow(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn large(id: usize) -> Event {
    Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 60_000]).build().unwrap()
}

fn small(id: usize) -> Event {
    Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 4_000]).build().unwrap()
}

/// The next report of an event that was not acknowledged.
async fn report(ingress: &Running, reports: &mut Subscriber, id: usize) -> IngressFailure {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        assert_ne!(ingress.publish(&large(id)).await.status, StatusCode::ACCEPTED, "the disk is full");
        if let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), reports.next()).await {
            let report: IngressReport = serde_json::from_slice(&message.payload).unwrap();
            match report {
                IngressReport::Failure(report) if report.failure == StoreFailure::Timeout => return report,
                IngressReport::Failure(_) | IngressReport::Progress(_) => {}
            }
        }
    }
    panic!("no report");
}

#[tokio::test]
async fn a_full_disk_is_reported_with_its_room_and_a_restart_heals_it() {
    let Some(disk) = SmallDisk::mount(48) else {
        eprintln!("SKIPPED: this test mounts a small tmpfs, and may not here");
        return;
    };
    let mut broker = TestBroker::start_in(&disk.0, 1 << 30).await;
    streams::ensure(&broker.admin(), &topic()).await.unwrap();
    // A full disk shows by answers that do not come.
    let ingress = start_with(&broker, Limits { publish: Duration::from_secs(2), ..limits() }).await;
    ingress.until_ready().await;
    let mut reports = broker.ingress_reports().await;
    let mut accepted = 0;
    while ingress.publish(&large(accepted)).await.status == StatusCode::ACCEPTED {
        accepted += 1;
    }
    let full = report(&ingress, &mut reports, accepted).await.volume.expect("the volume is known");
    assert!(full.free < full.total / 20, "{full:?}");
    disk.grow(200);
    // Reports from before may still be on their way. There is room, and yet nothing is stored.
    let begun = Instant::now();
    while report(&ingress, &mut reports, accepted).await.volume.is_none_or(|volume| volume.free <= volume.total / 2) {
        assert!(begun.elapsed() < LIMIT, "the room is not reported");
    }
    broker.restart().await;
    ingress.until_ready().await;
    assert_eq!(ingress.publish(&large(accepted)).await.status, StatusCode::ACCEPTED, "a restart heals it");
    assert!(events(&broker).await.len() > accepted, "all that was accepted is there");
}

/// nats-server recognises the events of a batch that it could not write, and calls them duplicates when they come
/// again.
#[tokio::test]
async fn a_batch_that_the_disk_had_no_room_for_is_never_acknowledged() {
    let Some(disk) = SmallDisk::mount(24) else {
        eprintln!("SKIPPED: this test mounts a small tmpfs, and may not here");
        return;
    };
    let mut broker = TestBroker::start_fsync_in(&disk.0, 1 << 30).await;
    streams::ensure(&broker.admin(), &topic()).await.unwrap();
    let ingress = start_with(&broker, Limits { publish: Duration::from_secs(2), ..limits() }).await;
    ingress.until_ready().await;
    let mut accepted = 0;
    let mut fill = async |event: fn(usize) -> Event, free: u64| {
        while disk.free() > free {
            assert_eq!(ingress.publish(&event(accepted)).await.status, StatusCode::ACCEPTED);
            accepted += 1;
        }
    };
    // The broker stages a batch, and then stores it: for that there is no room.
    let batch: Vec<Event> = (10_000..10_040).map(small).collect();
    let size = 40 * 4_300;
    fill(large, 4 * size).await;
    fill(small, size + size / 2).await;
    for some in [&batch[..], &batch[..1], &batch[39..], &batch[..]] {
        let answer = ingress.publish_batch(some).await;
        assert_ne!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }
    disk.grow(200);
    broker.restart().await;
    ingress.until_ready().await;
    let answer = ingress.publish_batch(&batch).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let stored = events(&broker).await;
    assert_eq!(stored.len(), accepted + 40, "all of them once");
}
