//! Bounded collection of output: the beginning and the end are kept.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// `(of the head, of the tail)`; `None` keeps everything.
    room: Option<(usize, usize)>,
    total: u64,
}

impl Capture {
    pub fn new(limit: Option<usize>) -> Capture {
        Capture { room: limit.map(|limit| (limit - limit / 2, limit / 2)), ..Capture::default() }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let Some((head, tail)) = self.room else {
            self.head.extend_from_slice(bytes);
            return;
        };
        let (first, rest) = bytes.split_at(bytes.len().min(head - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(tail)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(tail);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    pub fn output(&self) -> Vec<u8> {
        let (first, second) = self.tail.as_slices();
        [&self.head, first, second].concat()
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes between head and tail that were not kept.
    pub fn dropped(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Capture;

    #[test]
    fn keeps_everything_without_a_limit() {
        let mut capture = Capture::new(None);
        capture.push(b"abc");
        capture.push(b"def");
        assert_eq!((capture.output(), capture.dropped()), (b"abcdef".to_vec(), 0));
    }

    #[test]
    fn keeps_head_and_tail_however_the_output_is_cut() {
        let bytes: Vec<u8> = (0..=255).collect();
        for piece in [1, 2, 3, 5, 7, 100, 256] {
            let mut capture = Capture::new(Some(9));
            bytes.chunks(piece).for_each(|piece| capture.push(piece));
            assert_eq!(capture.output(), [0, 1, 2, 3, 4, 252, 253, 254, 255], "pieces of {piece}");
            assert_eq!((capture.total(), capture.dropped()), (256, 247));
        }
    }

    #[test]
    fn a_limit_that_is_not_reached_loses_nothing() {
        for limit in [6, 7, 100] {
            let mut capture = Capture::new(Some(limit));
            capture.push(b"abcdef");
            assert_eq!((capture.output(), capture.dropped()), (b"abcdef".to_vec(), 0));
        }
        let mut capture = Capture::new(Some(0));
        capture.push(b"abcdef");
        assert_eq!((capture.output(), capture.dropped()), (vec![], 6));
    }
}
