//! The catalogue of checks. Each looks at live parts; `about` says at what, for people.

mod audit;
pub(crate) mod backup;
mod blob;
mod blobs;
mod components;
mod compute;
mod database;
mod doors;
mod edge;
mod encrypted;
mod front;
mod graph;
mod groups;
mod identity;
mod images;
mod limits;
mod logins;
pub(crate) mod members;
mod network;
mod parts;
mod people;
mod private;
mod regions;
mod registry;
mod replicas;
mod rights;
mod sets;
mod source;
mod stamps;
mod starts;
mod storage;
mod story;
mod telemetry;
pub(crate) mod vault;
mod vaults;
mod writers;

use std::pin::Pin;

use crate::{Lab, Seen, claim::Call};

type Looking<'a> = Pin<Box<dyn Future<Output = Seen> + 'a>>;

/// What a check does to the stamps it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing that others would notice: side by side.
    Looks,
    /// As above, and it needs more than one stamp: not with `--fast`.
    Compares,
    /// It changes the stamp (and puts it back), or takes what others need: alone, and not with `--fast`.
    Acts,
}

/// One way of showing rows.
pub struct Check {
    pub name: &'static str,
    /// What it does and what it compares.
    pub about: &'static str,
    pub effect: Effect,
    look: for<'a> fn(&'a Lab, &'a str, &'a Call) -> Looking<'a>,
}

impl Check {
    /// Looks at the stamp `on`.
    pub async fn look(&self, lab: &Lab, on: &str, call: &Call) -> Seen {
        (self.look)(lab, on, call).await
    }
}

macro_rules! catalogue {
    ($($kind:ident $name:literal $path:path: $about:literal;)*) => {
        const ALL: &[Check] = &[$(Check {
            name: $name,
            about: $about,
            effect: catalogue!(@effect $kind),
            look: |lab, on, call| Box::pin($path(lab, on, call)),
        }),*];
    };
    (@effect looks) => { Effect::Looks };
    (@effect compares) => { Effect::Compares };
    (@effect acts) => { Effect::Acts };
}

catalogue! {
    looks "tls_min" edge::tls_min: "Hellos of SSL 3 to TLS 1.1 and plain bytes are refused, whole handshakes of 1.2 and 1.3 succeed; with 1.3 as least, 1.2 is refused.";
    looks "https_only" edge::https_only: "Plain HTTP is redirected to HTTPS, and the answer by HTTPS carries strict transport security.";
    looks "security_headers" edge::security_headers: "A page and an API answer carry each of the five security headers.";
    looks "largest_request" limits::largest: "A request of the most bytes is taken by the application, one of a byte more gets 413.";
    acts "times_out" limits::times_out: "A back-end that never answers stands behind a path: the client is answered 504 when the time is up, not earlier or much later.";
    acts "port_follows" edge::port_follows: "The port and its variable are changed, and the edge reaches the application at the new port.";
    looks "bounds" compute::bounds: "The kernel's limits of each process of a workload.";
    looks "environment_says" edge::environment_says: "A variable of the running process has the value, and an error page shows nothing of the program.";
    looks "story" story::tell: "The steps of a file of the system's checks: API calls as a signed-in person, and rows read past the application.";
    acts "story_alone" story::tell_alone: "The same by itself: parts are changed, stopped or ended, secrets set, providers fail; all of it is put back at its end.";
    acts "secure_sources" source::secure: "A copy of the sources is analysed as the build does it, and is clean; with an unsafe pattern planted it is not.";
    looks "sign_in_needed" identity::sign_in_needed: "Somebody signs in through the directory and uses the application; without or with a bad token the API answers 401.";
    looks "own_token" identity::own_token: "From the service's own place the identity endpoint gives a token that names the service, without a credential; another place with the same header gets none.";
    acts "identity_with_service" identity::with_service: "A service is added: it has an identity; it is taken away: its identity is gone.";
    acts "token_is_presented" identity::token_is_presented: "A token opens the vault, twice; one for another audience, or altered, is refused; the clock moved, the token has expired.";
    looks "roles_everywhere" identity::roles_everywhere: "Each part refuses who comes without a role: edge, vault, database, telemetry, audit, identity.";
    looks "no_credentials_stored" identity::no_credentials_stored: "No file of the sources or of the stored settings holds the value of a secret, while the service reads its vault.";
    looks "reference" vault::reference: "The stored setting is the reference, the process holds the resolved value, and no stored file holds it.";
    looks "secret_lifecycle" vault::lifecycle: "A secret is put, read, versioned and deleted by the vault's API, and its value lies in no file of the stamp.";
    looks "right_of_service" vault::right_of_service: "As the service: reading succeeds, writing and deleting are refused with 403.";
    acts "role_decides" vault::role_decides: "Without a role the service is refused, given the reader's role it reads, with the role taken away it is refused.";
    looks "refused_and_audited" vault::refused_and_audited: "An identity without the role gets 403, and the refusal is in the audit record.";
    looks "only_reader" limits::only_reader: "Each named secret is read by the one service and refused to every other workload of the stamp.";
    acts "soft_delete" vault::soft_delete: "Deleted secrets, the clock moved: the day before the end one is recovered, the day after another is gone.";
    compares "purge_protection" vault::purge: "In one stamp the highest role may not purge a deleted secret; in the other, if one is named, it may.";
    acts "rotation_reaches_service" vault::rotation: "A secret is rotated, the service restarted: the new value is in use, the stored settings are the same.";
    looks "connection_from_vault" vault::connection_from_vault: "The service reads the connection string with its own identity and opens the database by it.";
    compares "own_vault" vault::own_vault: "Two stamps have vaults at two addresses, and the identity of one is refused by the other.";
    looks "secret_access_audited" audit::secret_access: "A read, a refused read and a write of a secret each leave a record with who, what, when and outcome.";
    looks "sign_in_audited" audit::sign_in: "A failed sign-in and a changed role each leave a security record.";
    looks "query_audited" audit::query: "A query with a mark is found in the record of the database, with the role that ran it.";
    acts "admin_acts_recorded" audit::admin_acts: "An act of each kind that the supervisor carries out for people is recorded with who, what, to which stamp and when.";
    acts "audit_kept" audit::kept: "The clock moved: a record is found the day before its end and gone the day after.";
    looks "vaults_apart" vaults::apart: "With the identity of either service each secret of the other's vault is asked for by name, and refused.";
    looks "vault_of_service" vaults::of_service: "By its cloud name the vault answers its service; every other service is refused, and the record names no other reader.";
    looks "secrets_listed" vaults::listed: "The list in a document names what each service reads at its start by the audit record, and what its vault has.";
    acts "role_on_own_vault" vaults::role: "With the role the service reads and does not write, delete or list another vault; without it for a secret the next read is refused.";
    acts "reference_written" vaults::written: "The reference is stored as the document writes it, and the process holds the value; one to an absent secret is refused by name.";
    looks "one_instance" logins::one_instance: "The server lists the databases, and one postmaster runs in the stamp.";
    looks "token_login_only" logins::token_only: "Over the network a token of the own identity opens the database; another's, and passwords, do not.";
    looks "no_storage_key" logins::no_storage_key: "Environment and stored files of the running service hold no storage key; its token reads, and without one it is refused.";
    acts "no_password_held" logins::no_password: "Environment and stored files of the running service hold no password, yet it queries; its right taken away, it does not.";
    acts "starts_only_with" starts::only_with: "Without a variable the service does not start, and the error names it; with it, it serves.";
    acts "migration_stays" starts::migration_stays: "The history has each migration with its checksum; with another checksum there, the next run is refused.";
    looks "blob_reader" blob::reader: "As the service: listing and reading succeed, writing and deleting are refused; without a token, with another's, and as services without a role all is refused.";
    acts "blob_tiers" blobs::tiers: "The clock moved: a blob is hot the day before its container cools it and cool the day after, then archived and not read until it is taken out.";
    acts "blob_undeleted" blobs::undeleted: "The clock moved: a deleted blob is brought back the day before its end, and another is gone the day after.";
    looks "blob_versions" blobs::versions: "A blob is overwritten: the earlier version is read by its id, the blob itself has what was written last.";
    acts "blob_immutable" blob::immutable: "A blob that a job has put there is overwritten and deleted by nobody; the attempts are in the record.";
    acts "blob_has_set" blob::has_set: "A job's run puts a set into the container: every part has the digest that its manifest names, and the files are those of the share.";
    looks "registry_password" registry::password: "With the vault's password somebody logs in to the registry, pushes and pulls; with three others nobody does.";
    looks "registry_private" registry::private: "Without credentials nothing is pulled, by tag or digest; with its identity a service pulls and may not push; the pull is recorded.";
    compares "registry_tier" registry::tier: "Each registry says its tier, and takes an announced blob of half its room and not one of a byte more than all.";
    acts "admin_for_set_up" registry::admin_user: "The admin user's login works and is recorded, is flagged once an image was pushed, and switched off is refused.";
    acts "untagged_kept" registry::untagged: "The clock moved: an image that lost its tag is pulled the day before its end and gone the day after; a tagged one stays.";
    acts "latest_is_newest" registry::latest: "An image is built twice, and each time `latest` leads to it; pulled whole, by the service's identity.";
    acts "build_tags" registry::build_tags: "A build gets a tag with the second it was built in, which leads to it.";
    acts "release_stays" registry::release: "A build is released, and its tag leads to it; another image on it is refused, on other tags taken.";
    looks "database_version" database::version: "SHOW server_version.";
    looks "tables_by_app" database::tables_by_app: "The database is PostgreSQL and holds what the application recorded.";
    looks "migrations_once" database::migrations_once: "The history of migrations is filled, and the serving role cannot change the schema.";
    acts "connections" database::connections: "So many connections are open at once and each answers; one more than the limit is refused in a defined way.";
    compares "own_database" database::own_database: "What is written in one stamp is not in another, and the application of one cannot log in to the database of the other.";
    acts "point_in_time" backup::point_in_time: "Six rows one by one, restored to the moment after the fourth: a database of its own has exactly four, and the one that serves all six.";
    acts "backups_sealed" backup::sealed: "A mark is in the database's own files, in no file of its backups, and in what is restored from them.";
    acts "set_restores" sets::restores: "A job makes a set; database and files are deleted, and the application's own program restores the set into a new stamp.";
    acts "scheduled" sets::scheduled: "The clock moved to each of the next nights: the job runs by itself, once, and leaves a set more.";
    acts "mistake_undone" backup::mistake_undone: "Rows are deleted, the database restored to the moment before and swapped in: the application reads them again, and the damaged data is kept.";
    acts "daily_backups" backup::daily: "The clock moved a day at a time: each day has a base backup that nobody asked for.";
    acts "log_within" backup::log_within: "A row a second: a part of the log is backed up by itself when it is due; the database lost before that lacks the rows since the part before, and lost after it has them.";
    acts "backups_kept" backup::kept: "The clock moved: the day before its end a backup is restored from, the day after it is gone.";
    acts "second_region" backup::second_region: "The stamp and its folder are gone: another comes up from the second copy and the recovery key alone, with every row; the other stamp has no second copy.";
    acts "front_door" front::front_door: "Requests through the front door are found at both stamps; with either stopped, all at the other.";
    acts "gateway" front::gateway: "Requests through the door are found behind it by their ids; with the door stopped nobody is answered, started they are.";
    acts "name_moves" front::name_moves: "One stamp is stopped and the door led to another: the same address, with the same certificate, is answered by the other.";
    acts "recovered_within" front::recovered_within: "Each named drill is run on its stamp: from the fault until people are served again, under load.";
    acts "lost_less_than" front::lost_less_than: "A drill is run on the stamp: the time that acknowledged writes span which are gone afterwards.";
    acts "zone_lost" members::zone_lost: "Every process of the database's primary is killed at once; the standby in another zone takes over, the application recovers by itself, and each committed row is there.";
    looks "encrypted_at_rest" database::encrypted_at_rest: "The file system under the data is encrypted.";
    acts "health_follows_database" stamps::health_follows_database: "With the database ended the health page is not 200, and it is again once the database is back; pages of the process alone stay 200.";
    acts "stamps_stand_alone" stamps::stand_alone: "Two stamps share no process, address, CA or folder, and each serves with the other taken down.";
    acts "regions_apart" stamps::regions_apart: "Two stamps run in the regions they are labelled with, each with application, database and vault of its own.";
    acts "one_without_the_other" stamps::one_without_the_other: "With the database of one stamp killed again and again under load, the other answers every request.";
    acts "stamp_for" stamps::stamp_for: "Each of the named stamps comes up at an address of its own, and somebody signs in and works in it: a file of steps.";
    looks "nothing_undeclared" stamps::nothing_undeclared: "Each process of the stamp belongs to a declared resource, and each of them listens only at the stamp's addresses.";
    compares "own_space" network::own_space: "Two stamps have the same address space, and what listens in one hears nothing of the other.";
    looks "address_in" network::address_in: "Where a workload's processes listen, by the kernel's tables, lies in the block.";
    looks "subnet_is" network::subnet_is: "The subnet has the block, lies in the space, and overlaps no other.";
    acts "subnet_takes" network::subnet_takes: "What the subnet is for is in it; a resource of another kind is put in it and refused.";
    acts "leads_to_subnet" network::leads_to_subnet: "The vault is given an endpoint in the subnet: the service reaches it, the database does not.";
    compares "only_declared_pairs" network::only_declared_pairs: "From every workload's place every listener of the others is tried: declared pairs connect, all others are refused; so is the machine outside.";
    acts "deny_is_felt" network::deny_is_felt: "A link is denied and allowed again under trial; what is denied and what is undeclared is refused and counted.";
    compares "no_public_access" network::no_public_access: "Every address of this machine is tried at the database's port; the service's place gets an answer.";
    acts "every_connection" encrypted::every_connection: "A run is watched at the router: every connection begins with a TLS handshake; then every open port is tried without TLS, and refuses.";
    acts "part_stopped" parts::stopped: "With a service stopped its path is not answered through the edge, and those of others are.";
    acts "edge_reaches" parts::edge_reaches: "A path is answered by a service, which is stopped to see it; the edge reaches the named others not.";
    acts "connects" parts::connects: "A part starts anew, and the router counts its connections to another; strangers are refused there.";
    acts "job_connects" parts::job_connects: "The router counts a job's connections to one part during a run, and none to the named others.";
    looks "one_way" parts::one_way: "A path is given by GET and takes nothing else; its service opens no connection.";
    looks "only_behind_edge" parts::only_behind_edge: "An answer comes through the edge, and the service's own ports answer nowhere outside.";
    acts "balanced" replicas::balanced: "Each copy answers a share of the requests; one is ended, and none fails that is asked again.";
    looks "shared_mount" replicas::shared_mount: "What one copy writes at its mount the others read; the reader reads it and cannot write.";
    acts "migration_first" replicas::migration_first: "The schema is older than the service that begins; with a migration that fails nothing new begins.";
    acts "one_centre" regions::one_centre: "Of several stamps one alone is configured as the centre, and answers as one.";
    acts "region_mapping" regions::mapping: "The centre knows each person of the regions once; regions have no such table.";
    acts "region_redirects" regions::redirected: "Whoever signs in at the centre is led to their region; every step of the way is looked at.";
    acts "region_handed_down" regions::handed_down: "A region takes what the centre issued, and nothing that it did not.";
    acts "region_synchronised" regions::synchronised: "Made, renamed and withdrawn in a region, a person is so at the centre; nothing comes down by this way.";
    acts "region_alone" regions::alone: "With another stamp stopped people of the region sign in and work.";
    acts "data_stays" regions::data_stays: "What is written in a region lies in no file of the other stamps.";
    looks "service_endpoints" doors::service_endpoints: "From the service's subnet the vault answers, from the place of one in another subnet it is refused.";
    acts "reserved_subnet" doors::reserved_subnet: "Nobody is in the subnet; the vault put there answers at an address of it and no longer where it was.";
    acts "rule_is_named" doors::rule_is_named: "A link is cut: connections time out, the application is ill, and the status names the link and its mend; healed, it recovers.";
    acts "only_while_migrating" doors::only_while_migrating: "From the migration's place the database is refused, taken while a migration runs, and refused again.";
    acts "tier_without_hardware" rights::tier: "The vault's tier is read, and a key in hardware asked for by an administrator is refused.";
    acts "admin_password_rotates" rights::admin_password: "The administrator of the database signs in by the vault's password; rotated, the old one is refused and the new one taken.";
    compares "officers_by_stamp" rights::officers_by_stamp: "Somebody of the group signs in and sets a secret in the stamps that are named, and gets 403 in the last.";
    looks "comes_from" network::comes_from: "The database says from which address it sees the service come.";
    looks "logs_of" telemetry::logs_of: "One query gives lines of application, database and platform.";
    looks "query_language" telemetry::query_language: "A query with filter, time range and grouping gives the numbers counted from the raw lines.";
    acts "restart_logged" telemetry::restart_logged: "The application is ended, and its restart is found in the logs.";
    looks "trace_from_log" telemetry::trace_from_log: "A log line with a trace id leads to the requests of that trace.";
    looks "requests_counted" telemetry::requests_counted: "After a known number of requests the count and the latency by endpoint are those of the client.";
    acts "failures_counted" telemetry::failures_counted: "Of 100 requests 5 ask for nothing and 5 for what a table lacks: the telemetry says 10 per cent, half of them the application's own.";
    looks "dependencies" telemetry::dependencies: "A sign-in asks the database and the directory: both are dependencies of its request, with durations.";
    looks "one_tree" telemetry::one_tree: "One request's trace is one tree over the named parts.";
    looks "custom_event" telemetry::custom_event: "An event in the application's own terms is found with its fields.";
    looks "live_stream" telemetry::live_stream: "The stream of rates tells of a load within seconds.";
    looks "slow_query" telemetry::slow_query: "A slow query is found with its duration.";
    acts "read_replica" members::read_replica: "A replica that only reads: fresh rows, writes refused, and the primary reads nothing for what is asked there.";
    acts "storage_refused" storage::refused: "The kernel's size of the database's disk, and what it says to a write beyond, on a stamp with such a disk that does not grow.";
    acts "storage_grows" storage::grows: "A small disk is written past its threshold: it grows, with an event, while queries run beside.";
    acts "full_disk" storage::full: "A small disk that does not grow is written full: refused, diagnosed, nothing lost; with growth turned on writes go on.";
    acts "iops" storage::iops: "Random reads on the database's disk, past every page cache, counted.";
    acts "slow_query_mended" storage::slow_query_mended: "A query without an index is reported as slow; with the index it takes a tenth at most.";
    looks "graph_cluster" graph::cluster: "Members of the graph at addresses and in zones of their own, one leads, all others follow, and the monitor calls that healthy.";
    acts "graph_member_lost" graph::member_lost: "The graph's leader is killed with all its processes: reads go on, another leads, a write is taken, nothing acknowledged is lost.";
    acts "graph_monitor_names" graph::monitor_names: "A member is paused: the monitor names it and calls the cluster degraded, and healthy again afterwards.";
    acts "graph_parted" writers::parted: "A member is cut from all others: the monitor's word for the cluster leaves healthy, and is back once it is healed.";
    looks "graph_writer" writers::graph_writer: "A CREATE from every part's place with its own credentials: one succeeds, and the store recorded its name alone.";
    acts "only_way_to_write" writers::only_way_to_write: "What is written through the edge is read in the store; with the one part stopped no way writes.";
    looks "single_entry" components::single_entry: "From where people are each component is tried directly and refused, and answers through the edge.";
    acts "contained" components::contained: "Each process belongs to a declared workload, and each workload has a user and a network that no other has.";
    acts "each_alone" components::each_alone: "Each component is one workload with a program, user and network of its own; each is killed in turn, and all others answer.";
    looks "routed" components::routed: "The telemetry says which component had the request for a path.";
    looks "marked" components::marked: "A request with a mark leaves log lines with it from every part that it passes.";
    looks "told_of_each" components::told_of_each: "Of each component: requests a second, durations and failures as the client counted them, and one trace.";
    looks "refused_at_edge" components::refused_at_edge: "Bad methods and malformed requests are refused, and no component has heard of them.";
    acts "private_flows" private::private_flows: "Stories are told while the router is watched: each connection has both ends in the stamp's space; outside only the entries answer.";
    looks "closed_outside" private::closed_outside: "Every port of every workload is tried at every address of the stamp outside its network: only the entries answer.";
    acts "secure_links" private::secure_links: "A run is watched: every connection is TLS; a wrong password, an unknown name and undeclared places are refused.";
    looks "names_inside" private::names_inside: "Names of workloads are private addresses from a service's place, and nothing outside.";
    looks "page_needs_sign_in" people::page_needs_sign_in: "A page leads who has no session to the directory's password, and is shown to who signed in.";
    looks "groups_are" groups::are: "The stamp tells of so many resource groups, and what they hold of what runs.";
    looks "every_resource_grouped" groups::every_resource: "Every workload that runs is in exactly one resource group.";
    looks "group_has_all" groups::has_all: "A resource group holds every workload of some kinds, and no other group holds one.";
    acts "group_alone" groups::alone: "With everything that runs outside a resource group stopped, a person's requests are served.";
    acts "group_stopped" groups::stopped: "With every workload of a resource group stopped, a person's requests are served.";
    acts "registry_holds" images::holds: "Images of services are built; catalogue and tags name them, and each is pulled by its digest.";
    compares "own_telemetry" telemetry::own: "Requests to one stamp do not move the counts of another.";
    acts "logs_kept" telemetry::kept: "The clock moved: a line is found the day before its end and gone the day after.";
}

/// All checks there are.
pub fn all() -> &'static [Check] {
    ALL
}

/// The check of this name.
pub fn named(name: &str) -> Option<&'static Check> {
    ALL.iter().find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_there_twice() {
        let mut names: Vec<&str> = ALL.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
