use super::*;

fn table(n: usize) -> (Table<()>, Vec<Id>) {
    let mut table = Table::new();
    let ids = (0..n)
        .map(|number| table.push(Some(number), Role::Serves, ()))
        .collect();
    (table, ids)
}

fn numbers(table: &Table<()>) -> Vec<Option<usize>> {
    table
        .iter()
        .map(|entry| entry.number.filter(|_| entry.exact))
        .collect()
}

/// The kernel's group, which nothing hides from.
fn kernel(n: usize, removals: &[usize]) -> Vec<usize> {
    let mut group: Vec<usize> = (0..n).collect();
    for gone in removals {
        let place = group.iter().position(|member| member == gone).unwrap();
        group.swap_remove(place);
    }
    group
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, &first) in of.iter().enumerate() {
        let mut rest = of.to_vec();
        rest.remove(at);
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            all.push(tail);
        }
    }
    all
}

/// The subsets of 0..n, as bits.
fn subsets(n: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..1usize << n).map(move |bits| (0..n).filter(|bit| bits >> bit & 1 == 1).collect())
}

#[test]
fn the_last_moves_into_the_place_of_one_that_is_removed() {
    let (mut table, ids) = table(4);
    table.remove(ids[1]);
    assert_eq!(numbers(&table), [Some(0), Some(3), Some(2)]);
    table.remove(ids[2]);
    assert_eq!(numbers(&table), [Some(0), Some(3)]);
    assert_eq!(table.free_number(&[]), 1);
    assert_eq!(table.free_number(&[1]), 2);
}

/// Whatever vanishes, in whichever order: what the table calls exact is so in the kernel.
#[test]
fn what_is_exact_is_so_whichever_order_members_vanished_in() {
    for n in 1..=6 {
        for gone in subsets(n) {
            let (mut table, ids) = table(n);
            let doomed: Vec<Id> = gone.iter().map(|&number| ids[number]).collect();
            table.vanish(&doomed);
            let seen = numbers(&table);
            for order in permutations(&gone) {
                let truth = kernel(n, &order);
                assert_eq!(truth.len(), seen.len());
                for (place, number) in seen.iter().enumerate() {
                    assert!(
                        number.is_none_or(|number| number == truth[place]),
                        "{n} {order:?}: {seen:?} {truth:?}"
                    );
                }
            }
            // And one that vanishes alone is no mystery.
            assert!(gone.len() > 1 || seen.iter().all(Option::is_some));
        }
    }
}

/// Members that stand anywhere in certain places are removed one by one by their owner.
#[test]
fn what_is_exact_is_so_beside_members_whose_places_are_unknown() {
    for (unknown, known) in [(1, 2), (2, 1), (2, 3), (3, 2), (3, 3)] {
        for truth in permutations(&(0..unknown).collect::<Vec<_>>()) {
            for removals in subsets(unknown + known).filter(|removals| !removals.is_empty()) {
                let (mut table, ids) = table(unknown + known);
                table.scramble(|entry| entry.number.is_some_and(|number| number < unknown));
                let mut group = truth.clone();
                group.extend(unknown..unknown + known);
                for &gone in &removals {
                    let place = group.iter().position(|&member| member == gone).unwrap();
                    group.swap_remove(place);
                    table.remove(ids[gone]);
                    for (place, number) in numbers(&table).iter().enumerate() {
                        assert!(number.is_none_or(|number| number == group[place]));
                    }
                }
            }
        }
    }
}

/// While a batch is being removed, a program names the places of those that are not moved: they are
/// right after every single removal, and there are some.
#[test]
fn what_a_program_names_stands_still_while_a_batch_is_removed() {
    for n in 1..=7 {
        for doomed in subsets(n) {
            for getting in subsets(n) {
                if doomed.is_empty()
                    || getting.is_empty()
                    || getting.iter().any(|number| doomed.contains(number))
                {
                    continue;
                }
                let (mut table, ids) = table(n);
                let mut left: HashSet<Id> = doomed.iter().map(|&number| ids[number]).collect();
                let gets = |entry: &Entry<()>| {
                    entry.number.is_some_and(|number| getting.contains(&number))
                };
                let mut batches = 0;
                while let Some(batch) = table.batch(&left, gets) {
                    batches += 1;
                    let named: Vec<(usize, Id)> = table
                        .iter()
                        .enumerate()
                        .filter(|(_, entry)| gets(entry) && !batch.moved.contains(&entry.id))
                        .map(|(place, entry)| (place, entry.id))
                        .collect();
                    for id in &batch.remove {
                        assert!(left.remove(id));
                        table.remove(*id);
                        match batch.only {
                            // One moves, at the last removal, into the place that was foretold.
                            Some((only, place)) => {
                                assert_eq!(batch.remove.len(), 1);
                                assert_eq!(getting.len(), 1);
                                assert_eq!(table.place(only), Some(place));
                            }
                            None => {
                                assert!(!named.is_empty());
                                assert!(named.len() * 2 >= getting.len());
                                for &(place, id) in &named {
                                    assert_eq!(table.place(id), Some(place));
                                }
                            }
                        }
                    }
                }
                assert!(left.is_empty());
                assert!(batches <= 4, "{n} {doomed:?} {getting:?}: {batches}");
            }
        }
    }
}

/// All ways in which two lists can be merged, each in its own order.
fn merges(a: &[usize], b: &[usize]) -> Vec<Vec<usize>> {
    let first = |from: &[usize], rest: Vec<Vec<usize>>| -> Vec<Vec<usize>> {
        let put = |tail: Vec<usize>| [&from[..1], &tail].concat();
        rest.into_iter().map(put).collect()
    };
    match (a, b) {
        ([], rest) | (rest, []) => vec![rest.to_vec()],
        (a, b) => {
            let mut all = first(a, merges(&a[1..], b));
            all.extend(first(b, merges(a, &b[1..])));
            all
        }
    }
}

/// Some come while others go: what the table calls exact is so, whichever was first.
#[test]
fn what_is_exact_is_so_when_others_come_meanwhile() {
    for n in 1..=5 {
        for gone in subsets(n) {
            for came in 0..=2 {
                let (mut table, ids) = table(n);
                let before = table.ids();
                let doomed: Vec<Id> = gone.iter().map(|&number| ids[number]).collect();
                table.vanish(&doomed);
                for number in n..n + came {
                    table.push(Some(number), Role::Stranger, ());
                }
                table.mingle(&before);
                let seen = numbers(&table);
                let newcomers = permutations(&(n..n + came).collect::<Vec<_>>());
                for (gone, came) in permutations(&gone)
                    .iter()
                    .flat_map(|gone| newcomers.iter().map(move |came| (gone, came)))
                {
                    for events in merges(gone, came) {
                        let mut group: Vec<usize> = (0..n).collect();
                        for event in &events {
                            match group.iter().position(|member| member == event) {
                                Some(place) => drop(group.swap_remove(place)),
                                None => group.push(*event),
                            }
                        }
                        for (place, number) in seen.iter().enumerate() {
                            assert!(
                                number.is_none_or(|number| number == group[place]),
                                "{n} {events:?}: {seen:?} {group:?}"
                            );
                        }
                    }
                }
                // And one that comes or goes alone is no mystery.
                let is_alone = gone.len() + came < 2;
                assert!(!is_alone || seen.iter().all(Option::is_some));
            }
        }
    }
}
