//! The catalogue of drills. `about` says what is broken and what must hold, for people.

mod certificate;
mod clock;
mod database;
mod disk;
mod loss;
mod region;
mod release;
mod zone;

use crate::drill::Drill;

macro_rules! catalogue {
    ($($name:literal $path:path, $where:ident, $about:literal;)*) => {
        pub const ALL: &[Drill] = &[$(Drill {
            name: $name,
            about: $about,
            disk: catalogue!(@disk $where),
            scratch_only: catalogue!(@scratch $where),
            lay: catalogue!(@lay $where),
            act: |scene| Box::pin($path(scene)),
        }),*];
    };
    (@disk small_disk) => { Some(disk::BYTES) };
    (@disk $other:ident) => { None };
    (@lay two_regions) => { Some(region::lay) };
    (@lay $other:ident) => { None };
    (@scratch any) => { false };
    (@scratch $other:ident) => { true };
}

catalogue! {
    "audit-loss" loss::audit, any, "The audit role is frozen and then killed while secrets are read: work goes on, and every record is there afterwards.";
    "bad-release" release::bad, any, "A release that cannot start is brought up: it is refused, and going back serves people again.";
    "certificate-expiry" certificate::expiry, scratch, "Certificates live for half a minute: for a minute and a half each part shows a valid one, renewed without a dropped request.";
    "clock-jump" clock::jump, scratch, "The clock of all roles jumps a day ahead and back again: people sign in, and nothing is lost.";
    "disk-full" disk::full, small_disk, "The disk is filled under load until writes are refused, then freed: it serves again by itself.";
    "primary-loss" database::primary, any, "Every process of the database's primary is killed: a standby takes over where one is declared, else the server comes back; no acknowledged write is lost.";
    "region-loss" region::loss, two_regions, "All that carries a region's label is killed and removed: the stamp comes up in another region from the second copy and the recovery key, people come to it by the address they know, and later it goes back without a lost write.";
    "restore-to-time" database::restore, scratch, "Rows that people wrote are deleted by mistake: the database goes back to the moment before, in place of the damaged one.";
    "supervisor-loss" loss::supervisor, any, "The supervisor is killed: no request is lost, and a new one adopts every process.";
    "vault-loss" loss::vault, any, "The vault is killed: people notice nothing, it comes back by itself and holds what it held.";
    "zone-loss" zone::loss, any, "Everything in the zone of the database's primary is killed, and again whenever it comes back: the other zone serves on, no acknowledged write is lost, and the zone joins again.";
}
