//! A fixed pool of objects, named by index and generation, so that a late event can never reach
//! the object that took a freed place.

/// Objects a pool can hold at most: the index is half of a handle.
pub const POOL_OBJECTS_MAX: usize = 1 << 16;

/// Name of an object of a pool: index in the lower half, generation in the upper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u32);

impl Handle {
    fn new(index: u16, generation: u16) -> Self {
        Self(u32::from(generation) << 16 | u32::from(index))
    }

    /// Place in the pool.
    #[must_use]
    pub fn index(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u16,
    value: Option<T>,
}

/// Objects of one kind. Allocates nothing after [`Pool::new`].
#[derive(Debug)]
pub struct Pool<T> {
    slots: Box<[Slot<T>]>,
    free: Vec<u16>,
}

impl<T> Pool<T> {
    /// An empty pool with room for `capacity` objects.
    ///
    /// # Panics
    /// If `capacity` exceeds [`POOL_OBJECTS_MAX`].
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!(capacity <= POOL_OBJECTS_MAX, "a handle's index has 16 bits");
        let slots = (0..capacity).map(|_| Slot { generation: 0, value: None }).collect();
        let free = (0..capacity).rev().filter_map(|index| u16::try_from(index).ok()).collect();
        Self { slots, free }
    }

    /// Stores `value`; gives it back when the pool is full.
    pub fn acquire(&mut self, value: T) -> Result<Handle, T> {
        let Some(index) = self.free.pop() else { return Err(value) };
        let slot = &mut self.slots[usize::from(index)];
        assert!(slot.value.is_none(), "a free place of a pool is in use");
        slot.value = Some(value);
        Ok(Handle::new(index, slot.generation))
    }

    /// The object, unless it was released meanwhile.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<&T> {
        let slot = self.slots.get(handle.index())?;
        if slot.generation == handle.generation() { slot.value.as_ref() } else { None }
    }

    /// The object, unless it was released meanwhile.
    #[must_use]
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.index())?;
        if slot.generation == handle.generation() { slot.value.as_mut() } else { None }
    }

    /// Takes the object out; `None` if the handle is stale.
    pub fn release(&mut self, handle: Handle) -> Option<T> {
        let slot = self.slots.get_mut(handle.index())?;
        if slot.generation != handle.generation() {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(u16::try_from(handle.index()).expect("an index has 16 bits"));
        Some(value)
    }

    /// Objects in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Places in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Whether no place is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Handles and objects in use, by index.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let index = u16::try_from(index).ok()?;
            slot.value.as_ref().map(|value| (Handle::new(index, slot.generation), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_handles_find_nothing() {
        let mut pool = Pool::new(1);
        let old = pool.acquire("a").unwrap();
        assert_eq!(pool.acquire("b"), Err("b"));
        assert_eq!(pool.release(old), Some("a"));
        let new = pool.acquire("c").unwrap();
        assert_eq!(old.index(), new.index());
        assert_ne!(old, new);
        assert_eq!(pool.get(old), None);
        assert_eq!(pool.get_mut(old), None);
        assert_eq!(pool.release(old), None);
        assert_eq!(pool.get(new), Some(&"c"));
        assert_eq!((pool.in_use(), pool.capacity(), pool.is_full()), (1, 1, true));
        assert_eq!(pool.get(Handle(77)), None);
    }

    #[test]
    fn a_full_size_pool_uses_every_index() {
        let mut pool = Pool::new(POOL_OBJECTS_MAX);
        let handles: Vec<Handle> =
            (0..POOL_OBJECTS_MAX).map(|n| pool.acquire(n).unwrap()).collect();
        assert!(pool.is_full());
        assert_eq!(pool.iter().count(), POOL_OBJECTS_MAX);
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(pool.release(handle), Some(n));
        }
        assert_eq!(pool.in_use(), 0);
    }
}
