//! Which places of the present graph's output somebody will read.

use std::cell::RefCell;
use std::rc::Rc;

use super::Input;

/// One row of a batch, with its places that will be read; without them, all.
pub(super) type Row<'a, 'i> = (&'a [Input<'i>], Option<&'a [bool]>);

/// The rows of [`Session::run_into`](super::Session::run_into).
pub(super) fn rows<'a, 'i>(rows: &[&'a [Input<'i>]], wanted: &[&'a [bool]]) -> Vec<Row<'a, 'i>> {
    rows.iter().enumerate().map(|(row, &inputs)| (inputs, wanted.get(row).copied())).collect()
}

thread_local! {
    static WANTED: RefCell<Option<Rc<[bool]>>> = const { RefCell::new(None) };
}

/// Runs `work`, which must not unwind, on this thread, for an output of which only these places will be read; without
/// them, all.
pub(super) fn scope<T>(wanted: Option<&[bool]>, work: impl FnOnce() -> T) -> T {
    let before = WANTED.replace(wanted.map(Rc::from));
    let result = work();
    WANTED.set(before);
    result
}

/// The places that will be read, where that is known.
pub(super) fn wanted() -> Option<Rc<[bool]>> {
    WANTED.with_borrow(Clone::clone)
}

/// The places to compute of an output that has `count`, where that is not all of them.
pub(super) fn picked(wanted: Option<&[bool]>, count: usize) -> Option<Vec<usize>> {
    let wanted = wanted.filter(|wanted| wanted.len() == count && wanted.contains(&false))?;
    Some((0..count).filter(|&place| wanted[place]).collect())
}
