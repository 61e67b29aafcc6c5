//! The end of the service.

use loom::{future::block_on, sync::Arc, thread};

use crate::{count::Count, explore};

#[test]
fn the_end_comes_when_the_last_one_leaves_and_not_before() {
    explore(|| {
        let count = Arc::new(Count::default());
        let requests: Vec<_> = (0..2)
            .map(|_| {
                count.enter();
                let count = Arc::clone(&count);
                thread::spawn(move || count.leave())
            })
            .collect();
        count.begin_the_end();
        // A word that got lost would leave it waiting: loom says that all threads are stuck then.
        block_on(count.idle());
        assert_eq!(count.running(), 0);
        requests.into_iter().for_each(|request| request.join().unwrap());
    });
}

#[test]
fn who_still_slips_in_is_waited_for_or_seen_to_be_late() {
    explore(|| {
        let count = Arc::new(Count::default());
        count.enter();
        let late = thread::spawn({
            let count = Arc::clone(&count);
            move || {
                // As `pipeline` does: counted, then it looks whether the end has begun.
                count.enter();
                let refused = count.end_has_begun();
                count.leave();
                refused
            }
        });
        let first = thread::spawn({
            let count = Arc::clone(&count);
            move || count.leave()
        });
        count.begin_the_end();
        block_on(count.idle());
        late.join().unwrap();
        first.join().unwrap();
        assert_eq!(count.running(), 0);
    });
}
