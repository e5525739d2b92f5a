//! Work in parallel, results in order, and a way to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Result;

/// A request to stop, shared between threads.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the end; the work in hand is finished first.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Has anyone asked?
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Works on jobs in parallel and hands their results on in order: those of one batch while the next is worked on.
pub(crate) struct Ordered<'a, J, R> {
    work: &'a (dyn Fn(&J) -> R + Sync),
    sink: &'a mut (dyn FnMut(R) -> Result<()> + Send),
    stop: &'a Stop,
    batch: Vec<J>,
    weight: usize,
    limit: usize,
    pending: Vec<R>,
}

impl<'a, J: Send + Sync, R: Send> Ordered<'a, J, R> {
    /// `work` may give anything once a stop is requested; such results are not handed on.
    pub(crate) fn new(
        work: &'a (dyn Fn(&J) -> R + Sync),
        sink: &'a mut (dyn FnMut(R) -> Result<()> + Send),
        stop: &'a Stop,
    ) -> Self {
        // Enough to keep all threads busy, little enough to hold the results.
        let limit = 32 * rayon::current_num_threads();
        Self { work, sink, stop, batch: Vec::new(), weight: 0, limit, pending: Vec::new() }
    }

    /// Takes the next job, worth `weight` rows of an index. Gives false once a stop is requested.
    pub(crate) fn push(&mut self, job: J, weight: usize) -> Result<bool> {
        self.batch.push(job);
        self.weight += weight;
        if self.weight < self.limit {
            return Ok(true);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<bool> {
        self.weight = 0;
        let jobs = std::mem::take(&mut self.batch);
        let before = std::mem::take(&mut self.pending);
        let (work, sink) = (self.work, &mut self.sink);
        let compute = || jobs.par_iter().with_max_len(1).map(work).collect::<Vec<R>>();
        let (made, written) = rayon::join(compute, || before.into_iter().try_for_each(sink));
        written?;
        // Results of a batch that was cut short are not complete.
        if self.stop.requested() {
            return Ok(false);
        }
        self.pending = made;
        Ok(true)
    }

    /// Works on what is left and hands all results on. Gives false if a stop was requested before.
    pub(crate) fn finish(mut self) -> Result<bool> {
        Ok(self.flush()? && self.flush()?)
    }
}
