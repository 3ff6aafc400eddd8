//! The engine's compact answers as values of the Bolt protocol. Labels, types and property names come as numbers; their
//! names are asked for when a number is not known yet.

use crate::{
    Error,
    pack::Pack,
    redis::{Connection, Value},
};

/// Names by number. They only ever grow.
#[derive(Default)]
pub(crate) struct Names {
    labels: Vec<String>,
    types: Vec<String>,
    keys: Vec<String>,
}

/// Numbers that were met and have no name yet.
#[derive(Debug)]
pub(crate) struct Unknown;

/// What a statement answered.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Pack>>,
    /// The counters of what was changed, by Bolt's names; empty: nothing.
    pub changes: Vec<(String, i64)>,
}

impl Names {
    /// Asks for all names anew.
    pub async fn learn(&mut self, connection: &mut Connection, graph: &str) -> Result<(), Error> {
        for (call, list) in [
            ("CALL db.labels()", &mut self.labels),
            ("CALL db.relationshipTypes()", &mut self.types),
            ("CALL db.propertyKeys()", &mut self.keys),
        ] {
            let answer = connection.call(&["GRAPH.RO_QUERY", graph, call]).await?;
            let rows = answer.list().get(1).ok_or(Error::Answer("names without rows"))?;
            *list = rows.list().iter().filter_map(|row| row.list().first()?.text()).collect();
        }
        Ok(())
    }

    fn label(&self, n: i64) -> Result<Pack, Unknown> {
        self.labels.get(n as usize).map(Pack::text).ok_or(Unknown)
    }

    fn kind(&self, n: i64) -> Result<Pack, Unknown> {
        self.types.get(n as usize).map(Pack::text).ok_or(Unknown)
    }

    fn properties(&self, value: &Value) -> Result<Pack, Unknown> {
        let pair = |property: &Value| {
            let [key, kind, value] = property.list() else { return Err(Unknown) };
            let key = self.keys.get(key.int().unwrap_or(-1) as usize).ok_or(Unknown)?;
            Ok((key.clone(), self.scalar(kind, value)?))
        };
        value.list().iter().map(pair).collect::<Result<_, _>>().map(Pack::Map)
    }

    /// The answer of `GRAPH.QUERY ... --compact` as a table.
    pub fn table(&self, answer: &Value) -> Result<Table, Unknown> {
        let parts = answer.list();
        let mut table = Table { changes: changes(parts.last().map_or(&[][..], Value::list)), ..Table::default() };
        if let [head, rows, _] = parts {
            table.columns = head.list().iter().filter_map(|c| c.list().get(1)?.text()).collect();
            for row in rows.list() {
                table.rows.push(row.list().iter().map(|cell| self.cell(cell)).collect::<Result<_, _>>()?);
            }
        }
        Ok(table)
    }

    fn cell(&self, cell: &Value) -> Result<Pack, Unknown> {
        let [kind, value] = cell.list() else { return Ok(Pack::Null) };
        self.scalar(kind, value)
    }

    fn scalar(&self, kind: &Value, value: &Value) -> Result<Pack, Unknown> {
        let text = || value.text().unwrap_or_default();
        Ok(match kind.int().unwrap_or(0) {
            2 => Pack::Text(text()),
            3 => Pack::Int(value.int().unwrap_or(0)),
            4 => Pack::Bool(text() == "true"),
            5 => Pack::Float(text().parse().unwrap_or(f64::NAN)),
            6 => Pack::List(value.list().iter().map(|v| self.cell(v)).collect::<Result<_, _>>()?),
            7 => self.edge(value)?,
            8 => self.node(value)?,
            9 => self.path(value)?,
            10 => {
                let pairs = value.list().chunks_exact(2);
                let pair = |pair: &[Value]| Ok((pair[0].text().unwrap_or_default(), self.cell(&pair[1])?));
                Pack::Map(pairs.map(pair).collect::<Result<_, _>>()?)
            }
            _ => value.text().map_or(Pack::Null, Pack::Text),
        })
    }

    /// As Bolt 5 writes it, with the element's id as a text at the end.
    fn node(&self, value: &Value) -> Result<Pack, Unknown> {
        let [id, labels, properties] = value.list() else { return Ok(Pack::Null) };
        let id = id.int().unwrap_or(0);
        let labels = labels.list().iter().map(|l| self.label(l.int().unwrap_or(-1))).collect::<Result<_, _>>()?;
        let fields = vec![Pack::Int(id), Pack::List(labels), self.properties(properties)?, Pack::text(id.to_string())];
        Ok(Pack::Struct(b'N', fields))
    }

    fn edge(&self, value: &Value) -> Result<Pack, Unknown> {
        let [id, kind, from, to, properties] = value.list() else { return Ok(Pack::Null) };
        let [id, kind, from, to] = [id, kind, from, to].map(|v| v.int().unwrap_or(0));
        Ok(Pack::Struct(
            b'R',
            vec![
                Pack::Int(id),
                Pack::Int(from),
                Pack::Int(to),
                self.kind(kind)?,
                self.properties(properties)?,
                Pack::text(id.to_string()),
                Pack::text(from.to_string()),
                Pack::text(to.to_string()),
            ],
        ))
    }

    /// Nodes, relationships without their ends, and how they follow one another; a step against the arrow has a minus.
    fn path(&self, value: &Value) -> Result<Pack, Unknown> {
        let [nodes, edges] = value.list() else { return Ok(Pack::Null) };
        // Both are cells themselves, of arrays.
        let cells = |v: &Value| match self.cell(v)? {
            Pack::List(all) => Ok(all),
            _ => Ok(Vec::new()),
        };
        let (nodes, edges) = (cells(nodes)?, cells(edges)?);
        let (mut steps, mut unbound) = (Vec::new(), Vec::new());
        for (n, edge) in edges.into_iter().enumerate() {
            let Pack::Struct(_, fields) = edge else { return Ok(Pack::Null) };
            let starts_here = matches!(&nodes.get(n), Some(Pack::Struct(_, node)) if node[0] == fields[1]);
            let number = n as i64 + 1;
            steps.extend([Pack::Int(if starts_here { number } else { -number }), Pack::Int(number)]);
            let [id, _, _, kind, properties, element, ..] = &fields[..] else { return Ok(Pack::Null) };
            let fields = vec![id.clone(), kind.clone(), properties.clone(), element.clone()];
            unbound.push(Pack::Struct(b'r', fields));
        }
        Ok(Pack::Struct(b'P', vec![Pack::List(nodes), Pack::List(unbound), Pack::List(steps)]))
    }
}

/// The engine's counters by the names that drivers know.
fn changes(statistics: &[Value]) -> Vec<(String, i64)> {
    let known = [
        ("Nodes created", "nodes-created"),
        ("Nodes deleted", "nodes-deleted"),
        ("Relationships created", "relationships-created"),
        ("Relationships deleted", "relationships-deleted"),
        ("Properties set", "properties-set"),
        ("Properties removed", "properties-set"),
        ("Labels added", "labels-added"),
        ("Labels removed", "labels-removed"),
        ("Indices created", "indexes-added"),
        ("Indices deleted", "indexes-removed"),
    ];
    let mut all: Vec<(String, i64)> = Vec::new();
    for line in statistics.iter().filter_map(Value::text) {
        let Some((name, value)) = line.split_once(": ") else { continue };
        let Some((_, bolt)) = known.iter().find(|(engine, _)| *engine == name) else { continue };
        let count: i64 = value.trim().parse().unwrap_or(0);
        match all.iter_mut().find(|(name, _)| name == bolt) {
            Some((_, sum)) => *sum += count,
            None if count != 0 => all.push(((*bolt).to_owned(), count)),
            None => {}
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn int(n: i64) -> Value {
        Value::Int(n)
    }

    fn list(all: Vec<Value>) -> Value {
        Value::List(all)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn a_path_is_read_as_the_engine_writes_it_and_an_unknown_name_is_told() {
        let names = Names { labels: vec!["X".into(), "Y".into()], types: vec!["R".into()], keys: vec!["n".into()] };
        let property = list(vec![int(0), int(3), int(5)]);
        let node =
            |id, label| list(vec![int(8), list(vec![int(id), list(vec![int(label)]), list(vec![property.clone()])])]);
        let edge = list(vec![int(7), list(vec![int(9), int(0), int(1), int(0), list(vec![])])]);
        let nodes = list(vec![int(6), list(vec![node(0, 0), node(1, 1)])]);
        let path = list(vec![int(9), list(vec![nodes, list(vec![int(6), list(vec![edge])])])]);
        let head = list(vec![list(vec![int(1), text("p")])]);
        let answer = list(vec![
            head,
            list(vec![list(vec![path])]),
            list(vec![text("Nodes created: 2"), text("Cached execution: 0")]),
        ]);
        let table = names.table(&answer).unwrap();
        assert_eq!((table.columns, table.changes), (vec!["p".to_owned()], vec![("nodes-created".to_owned(), 2)]));
        let Pack::Struct(b'P', parts) = &table.rows[0][0] else { panic!("{:?}", table.rows) };
        // Gone against its direction: the relationship leads from the second node to the first.
        assert_eq!(parts[2], Pack::List(vec![Pack::Int(-1), Pack::Int(1)]));
        let Pack::List(nodes) = &parts[0] else { panic!("{parts:?}") };
        assert_eq!(nodes.len(), 2);
        assert!(Names::default().table(&answer).is_err());
    }
}
