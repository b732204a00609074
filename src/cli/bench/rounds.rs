//! Taking turns: in each round every endpoint once, and each time another one begins.
//!
//! What one round leaves behind (caches, dead cgroups, the kernel's grace periods) meets the next endpoint, so nobody
//! always comes after the same one.

/// How many rounds.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    pub warm_up: usize,
    pub measured: usize,
}

/// One endpoint's turn in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Its position among the endpoints.
    pub endpoint: usize,
    /// False while warming up.
    pub counted: bool,
}

impl Rounds {
    /// For what takes long: a tenth as many, but one of each that there was.
    pub fn few(self) -> Self {
        Self {
            warm_up: self.warm_up.min(1),
            measured: (self.measured / 10).max(1),
        }
    }

    /// All turns in their order.
    pub fn turns(self, endpoints: usize) -> Vec<Turn> {
        let rounds = 0..self.warm_up + self.measured;
        let turns = rounds.flat_map(|round| {
            (0..endpoints).map(move |place| Turn {
                endpoint: (round + place) % endpoints,
                counted: round >= self.warm_up,
            })
        });
        turns.collect()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn each_round_has_everyone_once_and_begins_with_the_next() {
        let rounds = Rounds {
            warm_up: 1,
            measured: 3,
        };
        let turns = rounds.turns(3);
        let order: Vec<_> = turns.iter().map(|turn| turn.endpoint).collect();
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]);
        assert!(turns.iter().enumerate().all(|(at, turn)| turn.counted == (at >= 3)));
        assert_eq!(rounds.few().turns(1).len(), 2);
        let cold = Rounds {
            warm_up: 0,
            measured: 200,
        };
        assert_eq!(cold.few().turns(1).len(), 20);
    }
}
