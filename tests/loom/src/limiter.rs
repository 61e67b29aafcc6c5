//! The requests in flight.

use loom::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    thread,
};

use crate::{explore, places::Places};

#[test]
fn never_more_than_may_run_and_no_place_is_lost() {
    explore(|| {
        let (places, running) = (Arc::new(Places::new(1)), Arc::new(AtomicUsize::new(0)));
        let request = |places: &Places, running: &AtomicUsize| {
            if places.take() {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                running.fetch_sub(1, Ordering::SeqCst);
                places.give_back();
            }
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (places, running) = (Arc::clone(&places), Arc::clone(&running));
                thread::spawn(move || request(&places, &running))
            })
            .collect();
        request(&places, &running);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(places.taken(), 0);
        assert!(places.take(), "all are free again");
    });
}

#[test]
fn a_smaller_bound_is_kept_by_those_who_come_later() {
    explore(|| {
        let places = Arc::new(Places::new(2));
        assert!(places.take());
        let other = thread::spawn({
            let places = Arc::clone(&places);
            move || {
                places.set_max(1);
                let came = places.take();
                if came {
                    places.give_back();
                }
                came
            }
        });
        places.give_back();
        let came = other.join().unwrap();
        assert_eq!(places.taken(), 0);
        assert!(places.take() && !places.take(), "one at a time, whoever came before: {came}");
    });
}
