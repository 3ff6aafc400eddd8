//! PostgreSQL as its clients meet it.

use crate::{
    Error, Lab, Miss, Seen,
    claim::Call,
    inside::{Ask, Saw},
    miss, must,
};

async fn rows(lab: &Lab, on: &str, service: &str, variable: &str, sql: &str) -> Result<Vec<Vec<String>>, Miss> {
    let site = lab.site(on).await?;
    let ask = Ask::Sql { variable: variable.into(), statements: vec![sql.into()] };
    match site.inside(service, &[ask]).await?.into_iter().next() {
        Some(Saw::Sql(mut all)) if all.len() == 1 => Ok(all.remove(0)),
        saw => Err(Miss::Failed(format!("{sql}: {saw:?}"))),
    }
}

/// `database_version(SERVICE, VARIABLE, WANTED MAJOR)`.
pub async fn version(lab: &Lab, on: &str, c: &Call) -> Seen {
    let rows = rows(lab, on, c.argument(0, "web"), c.argument(1, ""), "SHOW server_version").await?;
    let version = rows.first().and_then(|r| r.first()).cloned().unwrap_or_default();
    let want = c.argument(2, "16");
    match version.split(['.', ' ']).next() {
        Some(major) if major == want => Ok(format!("server_version {version}")),
        Some(major) if major.parse::<u32>().is_ok() => {
            Err(Miss::Substituted(format!("PostgreSQL {version} stands in for {want}")))
        }
        _ => miss!("server_version is `{version}`"),
    }
}

/// `tables_by_app(SERVICE, VARIABLE, TABLE...)`.
pub async fn tables_by_app(lab: &Lab, on: &str, c: &Call) -> Seen {
    let sql = "SELECT current_setting('server_version_num'), string_agg(tablename, ',' ORDER BY tablename) FROM pg_tables \
               WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    let rows = rows(lab, on, c.argument(0, "web"), c.argument(1, ""), sql).await?;
    let tables = rows.first().and_then(|r| r.get(1)).cloned().unwrap_or_default();
    for table in c.arguments.iter().skip(2) {
        must!(tables.split(',').any(|t| t == table), "there is no table {table}, only {tables}");
    }
    Ok(format!("PostgreSQL {} holds {tables}", rows[0][0]))
}

/// `migrations_once(SERVICE, VARIABLE, HISTORY TABLE)`.
pub async fn migrations_once(lab: &Lab, on: &str, c: &Call) -> Seen {
    let (service, variable, table) = (c.argument(0, "web"), c.argument(1, ""), c.argument(2, ""));
    let count = rows(lab, on, service, variable, &format!("SELECT count(*) FROM \"{table}\"")).await?;
    let applied: u32 = count.first().and_then(|r| r.first()).and_then(|n| n.parse().ok()).unwrap_or_default();
    must!(applied > 0, "the history of migrations is empty");
    // A second `up` migrates nothing, and the role that serves could not.
    lab.restore(on).await?;
    let again = rows(lab, on, service, variable, &format!("SELECT count(*) FROM \"{table}\"")).await?;
    must!(again == count, "brought up again, the history went from {count:?} to {again:?}");
    match rows(lab, on, service, variable, "CREATE TABLE check_of_rights (x int)").await {
        Err(Miss::Failed(why)) if why.contains("permission denied") => Ok(format!(
            "{applied} migrations; applied again: the same; the serving role's CREATE TABLE: permission denied"
        )),
        Err(other) => Err(other),
        Ok(_) => miss!("the serving role may change the schema"),
    }
}

/// `connections(SERVICE, VARIABLE, COUNT)`.
pub async fn connections(lab: &Lab, on: &str, c: &Call) -> Seen {
    let site = lab.site(on).await?;
    let count: usize = c.argument(2, "100").parse()?;
    let ask = Ask::Connections { variable: c.argument(1, "").into(), most: count + 400 };
    let saw = site.inside(c.argument(0, "web"), &[ask]).await?;
    let Some(Saw::Connections { open, others, clients, refused }) = saw.first() else { miss!("{saw:?}") };
    must!(
        open + others >= count,
        "only {open} connections were held and answered a query of some work beside {others} of the service, then: {refused:?}"
    );
    let Some(refused) = refused else { miss!("{open} were open and no bound was met") };
    must!(
        refused.contains("too many") || refused.contains("remaining connection slots"),
        "the next failed with: {refused}"
    );
    Ok(format!(
        "{open} connections at once beside {others} of the running service, {count} or more were promised: held for 4 s, then all at \
         work ({clients} seen running at one moment), each answered; the next: {refused}"
    ))
}

/// A row that is written and counted: `{unique}` is different each time.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Marks {
    write: String,
    count: String,
}

/// `own_database(OTHER STAMP, SERVICE, VARIABLE, FILE OF STATEMENTS)`.
pub async fn own_database(lab: &Lab, on: &str, c: &Call) -> Seen {
    let other = c.argument(0, "staging");
    let (service, variable) = (c.argument(1, "web"), c.argument(2, ""));
    let (here, there) = (lab.site(on).await?, lab.site(other).await?);
    let file = format!("checks/{}.toml", c.argument(3, "own_database"));
    let fault = |what: String| Error::File { file: file.clone(), what };
    let marks: Marks = toml_edit::de::from_str(&lab.file(&file)?).map_err(|e| fault(e.to_string()))?;
    let unique = uuid::Uuid::new_v4().simple().to_string()[..10].to_uppercase();
    rows(lab, on, service, variable, &marks.write.replace("{unique}", &unique)).await?;
    let sql = marks.count.replace("{unique}", &unique);
    let counts = (rows(lab, on, service, variable, &sql).await?, rows(lab, other, service, variable, &sql).await?);
    must!(
        counts.0 == [["1"]] && counts.1 == [["0"]],
        "the row is there {:?} and in the other stamp {:?}",
        counts.0,
        counts.1
    );
    // The other stamp's own password, at this stamp's database.
    let vault = there.vault(&format!("service.{service}")).await?;
    let answer = vault.send("GET", "/secrets/ConnectionStrings--DefaultConnection?api-version=7.4", None).await?;
    let value: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let text = value["value"].as_str().unwrap_or_default();
    let postgres = here.first("postgres")?;
    let way = here.way(&postgres)?;
    let ca = here.scratch.join("own-database-ca.pem");
    std::fs::write(&ca, &here.ca_pem)?;
    let moved = text.split(';').map(|pair| match pair.split_once('=').map(|(k, _)| k.trim().to_ascii_lowercase()) {
        Some(key) if key == "root certificate" => format!("Root Certificate={}", ca.display()),
        _ => pair.to_owned(),
    });
    let moved = moved.collect::<Vec<_>>().join(";");
    match crate::sql::connect_by(&moved, &way).await {
        Ok(_) => miss!("the application of {other} logs in to the database of {on}"),
        Err(Miss::Failed(why)) => {
            must!(why.contains("authentication failed"), "the log-in failed, but with: {why}");
            Ok(format!("a row written in {on} is not in {other}; the other's log-in: {why}"))
        }
        Err(other) => Err(other),
    }
}

/// What the kernel says of the file system under the database's data.
pub async fn encrypted_at_rest(lab: &Lab, on: &str, _: &Call) -> Seen {
    let site = lab.site(on).await?;
    let postgres = site.first("postgres")?;
    let place = site.places.get(&postgres).ok_or_else(|| Miss::Failed(format!("{postgres} has no place")))?;
    let metadata = std::fs::metadata(place)?;
    let device = std::os::unix::fs::MetadataExt::dev(&metadata);
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let uuid = format!("/sys/dev/block/{major}:{minor}/dm/uuid");
    match std::fs::read_to_string(&uuid) {
        Ok(text) if text.starts_with("CRYPT-") => {
            Ok(format!("{} lies on the encrypted device {}", place.display(), text.trim()))
        }
        Ok(text) => Err(Miss::NotHere {
            why: format!("the data lies on {}, which is not encrypted", text.trim()),
            command: format!("cat {uuid}"),
        }),
        Err(error) => Err(Miss::NotHere {
            why: format!("the data does not lie on an encrypted device ({error})"),
            command: format!("cat {uuid}"),
        }),
    }
}
