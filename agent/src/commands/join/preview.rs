//! The manager's tree, from the head and change frames of a base pack, and this server's tree beside it.

use std::{collections::BTreeSet, sync::Arc};

use bellwether_daemon::config::Config;
use bellwether_proto::{
    limits,
    name::SetName,
    record::SetRules,
    v1::{EnterRequest, group_client::GroupClient},
};
use bellwether_store::{
    pack::{Frame, Head, Reader},
    scan::{Look, Source, scan},
    tree::{Change, Tree},
};
use tonic::transport::Channel;

use super::differences::Differences;
use crate::error::{CommandError, Kind};

/// The group's tree and rules.
#[derive(Debug)]
pub(super) struct Preview {
    rules: Vec<Arc<SetRules>>,
    tree: Tree,
}

/// Asks the manager for its tree.
pub(super) async fn fetch(manager: &mut GroupClient<Channel>, request: &EnterRequest) -> Result<Preview, CommandError> {
    let mut parts = manager.preview(request.clone()).await?.into_inner();
    let mut collected = Collected::default();
    while let Some(part) = parts.message().await? {
        collected.push(&part.pack)?;
    }
    collected.finish()
}

#[derive(Default)]
struct Collected {
    reader: Reader,
    head: Option<Box<Head>>,
    changes: Vec<Change>,
}

impl Collected {
    fn push(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        for frame in self.reader.push(bytes).map_err(|e| CommandError::failed(&e))? {
            match frame {
                Frame::Head(head) => self.head = Some(head),
                Frame::Changes(changes) => self.changes.extend(changes),
                Frame::Chunks(_) | Frame::Patches(_) | Frame::End => {}
            }
        }
        if self.changes.len() as u64 > limits::ENTRIES {
            return Err(nonsense("more entries than a group can have"));
        }
        Ok(())
    }

    fn finish(self) -> Result<Preview, CommandError> {
        let head = self.head.ok_or_else(|| nonsense("nothing"))?;
        let tree = Tree::empty(head.rules.iter().cloned());
        let tree = tree.apply(self.changes).map_err(|e| CommandError::failed(&e))?;
        if !head.base || tree.root() != head.header.header().root {
            return Err(nonsense("a tree that is not its revision's"));
        }
        Ok(Preview { rules: head.rules, tree })
    }
}

fn nonsense(what: &str) -> CommandError {
    CommandError::new(Kind::Failed, format!("the manager sent {what}; nothing was changed"))
}

/// The paths of the group's sets on this server.
pub(super) fn sources(group: &Preview, config: &Config) -> Result<Vec<Source>, CommandError> {
    let path = |name: &SetName| config.sets.iter().find(|set| set.name == *name).map(|set| set.path.clone());
    let missing: Vec<_> = group.rules.iter().map(|rules| &rules.name).filter(|name| path(name).is_none()).collect();
    if let Some(first) = missing.first() {
        let names: Vec<_> = missing.iter().map(|name| name.as_str()).collect();
        let text = format!("the group has sets that have no place on this server: {}", names.join(", "));
        return Err(CommandError::new(Kind::Refused, text)
            .hint(format!("say where each is, as --set {first}=/etc/{first}, or in {}", config.file.display())));
    }
    let known: BTreeSet<_> = group.rules.iter().map(|rules| &rules.name).collect();
    for extra in config.sets.iter().filter(|set| !known.contains(&set.name)) {
        tracing::warn!("the group has no set {}: {} stays this server's own", extra.name, extra.path.display());
    }
    let source = |rules: &Arc<SetRules>| Some(Source::new(rules.clone(), path(&rules.name)?));
    Ok(group.rules.iter().filter_map(source).collect())
}

/// Reads this server's directories and compares them with the group's. Blocks.
pub(super) fn compare(sources: &[Source], group: &Preview) -> Result<Differences, CommandError> {
    let found = scan(sources, &Tree::default(), &Look::Stats).map_err(|e| CommandError::failed(&e))?;
    Ok(Differences::between(&found.tree, &group.tree))
}
