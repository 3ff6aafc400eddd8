//! The disk fills.

use std::{io::Write as _, time::Duration};

use crate::{Miss, Seen, checks::members, drill::Scene, load::Outcome, miss, must, site::until_in};

/// The home of this drill lies on a disk of its own of this size: room for one stamp, and little more.
pub const BYTES: u64 = 768 * 1024 * 1024;
/// Writes must have been refused by then.
const FULL_WITHIN: Duration = Duration::from_secs(60);
const STEP: usize = 1024 * 1024;

pub async fn full(scene: &Scene<'_>) -> Seen {
    let site = scene.lab.site(scene.on).await?;
    let ballast = site.scratch.join("fills-the-disk");
    let free = || -> Result<u64, Miss> {
        let disk = rustix::fs::statvfs(&site.scratch)?;
        Ok(disk.f_bavail * disk.f_frsize)
    };
    let before = free()?;
    must!(before < BYTES, "the home is not on a small disk: {before} bytes are free");
    let mut file = std::fs::File::create(&ballast)?;
    scene.fault(format!("the disk is filled, {} MiB", before / 1024 / 1024));
    let refused = |from: usize| {
        scene.load.tape().samples.iter().skip(from).filter(|s| s.mark.is_some() && s.outcome != Outcome::Done).count()
    };
    let from = scene.load.tape().samples.len();
    let block = vec![0x55_u8; STEP];
    let full = until_in("writes are refused", FULL_WITHIN, async || {
        // What is freed meanwhile is taken as well.
        let mut part = block.as_slice();
        while !part.is_empty() {
            match file.write(part) {
                Ok(_) => {}
                Err(_) if part.len() > 1 => part = &part[..part.len() / 2],
                Err(_) => break,
            }
        }
        let count = refused(from);
        must!(count >= 5, "{count} writes were refused, {} bytes are free", free().unwrap_or_default());
        Ok(count)
    })
    .await;
    let asked = members::status(&site).await;
    drop(file);
    std::fs::remove_file(&ballast)?;
    scene.say("the disk has room again");
    let count = full?;
    if let Err(why) = asked {
        miss!("the stamp could not be asked while the disk was full: {why:?}");
    }
    until_in("writes are taken again", FULL_WITHIN, async || {
        let tape = scene.load.tape();
        let last = tape.samples.iter().rev().find(|s| s.mark.is_some());
        must!(last.is_some_and(|s| s.outcome == Outcome::Done), "the last write was {:?}", last.map(|s| &s.outcome));
        Ok(())
    })
    .await?;
    scene.mended("writes are taken again");
    Ok(format!("{count} writes were refused while the disk was full, none was taken and lost"))
}
