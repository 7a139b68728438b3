use std::sync::{Arc, Barrier};
use std::{env, process, thread};

fn sort() {
    let (mut x, mut sum) = (42u64, 0u64);
    let mut numbers: Vec<u64> = (0..1000000).map(|_| { x = x * 16807 % 2147483647; x }).collect();
    numbers.sort();
    for number in numbers {
        sum = (sum * 31 + number) % 1000000007;
    }
    println!("{}", sum);
}

fn threads(count: u64) {
    let all_here = Arc::new(Barrier::new(count as usize));
    let started: Vec<_> = (1..=count)
        .map(|number| {
            let all_here = all_here.clone();
            thread::spawn(move || { all_here.wait(); number * number })
        })
        .collect();
    println!("{}", started.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>());
}

fn main() {
    let words: Vec<String> = env::args().collect();
    let count = words.get(2).map_or(0, |word| word.parse().unwrap());
    match words[1].as_str() {
        "sort" => sort(),
        "threads" => threads(count),
        "bomb" => { let mut all = vec![]; loop { all.push(vec![1u8; 1 << 20]); } }
        "exit" => process::exit(count as i32),
        "throw" => panic!("boom"),
        _ => { println!("looping"); let mut n = 0u64; loop { n = unsafe { std::ptr::read_volatile(&n) }.wrapping_add(1); } }
    }
}
