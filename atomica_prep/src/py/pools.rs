//! Threads of the process that asks: after a fork those of the parent are not there, and whoever waited for them would
//! wait for ever.

use std::collections::BTreeMap;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The pools of a process, by number of threads; 0 stands for as many as there are cores.
type Pools = Mutex<BTreeMap<usize, Arc<ThreadPool>>>;

/// Those of this process; null until it asks for one. They are never let go of: a child must not wake its parent's.
static POOLS: AtomicPtr<Pools> = AtomicPtr::new(null_mut());

extern "C" {
    /// Of the C library: what to call before a fork, after it in the parent, and in the child. Gives 0, or an error.
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> i32;
}

extern "C" fn forget() {
    POOLS.store(null_mut(), Ordering::Release);
}

fn pools() -> &'static Pools {
    static WATCH: Once = Once::new();
    // SAFETY: `forget` is one store to an atomic, which may happen in a child at any moment.
    WATCH.call_once(|| {
        unsafe { pthread_atfork(None, None, Some(forget)) };
    });
    let mut known = POOLS.load(Ordering::Acquire);
    if known.is_null() {
        let fresh = Box::into_raw(Box::<Pools>::default());
        known = match POOLS.compare_exchange(null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
                other
            }
        };
    }
    // SAFETY: it came from a box that is never let go of once it is in `POOLS`.
    unsafe { &*known }
}

/// A pool of so many threads, started in this process.
pub(super) fn pool(threads: usize) -> PyResult<Arc<ThreadPool>> {
    let mut pools = pools().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let made = ThreadPoolBuilder::new().num_threads(threads).build();
    let made = Arc::new(made.map_err(|error| PyRuntimeError::new_err(format!("cannot start threads: {error}")))?);
    pools.insert(threads, Arc::clone(&made));
    Ok(made)
}
