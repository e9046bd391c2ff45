//! The revisions that the histories on this server's disk have.

use std::{fs, io, path::Path};

use bellwether_group::lost::Known;
use bellwether_proto::revision::SignedHeader;
use bellwether_store::{
    history::{self, HistoryError},
    state::layout::Layout,
};

/// The revisions in the history of the state directory (`history`), and in the kept older histories. Blocks.
///
/// # Errors
/// They cannot be read.
pub fn known(state: &Path, history: Vec<SignedHeader>) -> Result<Known, HistoryError> {
    let mut all = history;
    for kept in group_histories(state).unwrap_or_default() {
        all.extend(history::headers(&kept)?);
    }
    Ok(Known::of(all))
}

/// The histories among the kept copies.
fn group_histories(state: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let points = fs::read_dir(Layout::new(state.to_owned()).recovery())?;
    let histories = points.filter_map(Result::ok).map(|point| Layout::new(point.path()).history());
    Ok(histories.filter(|path| path.is_dir()).collect())
}
