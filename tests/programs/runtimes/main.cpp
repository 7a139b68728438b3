#include <algorithm>
#include <barrier>
#include <cstdlib>
#include <iostream>
#include <list>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static void sort() {
    std::vector<long> numbers(1000000);
    long x = 42, sum = 0;
    for (long &number : numbers) number = x = x * 16807 % 2147483647;
    std::sort(numbers.begin(), numbers.end());
    for (long number : numbers) sum = (sum * 31 + number) % 1000000007;
    std::cout << sum << std::endl;
}

static void threads(long count) {
    std::barrier all_here(count);
    std::vector<long> squares(static_cast<size_t>(count));
    std::vector<std::thread> started;
    for (long i = 0; i < count; i++)
        started.emplace_back([&, i] {
            all_here.arrive_and_wait();
            squares[static_cast<size_t>(i)] = (i + 1) * (i + 1);
        });
    long sum = 0;
    for (auto &thread : started) thread.join();
    for (long square : squares) sum += square;
    std::cout << sum << std::endl;
}

int main(int count, char **words) {
    std::string what = count > 1 ? words[1] : "";
    if (what == "sort") sort();
    else if (what == "threads") threads(std::atol(words[2]));
    else if (what == "bomb") for (std::list<std::string> all;;) all.emplace_back(1 << 20, 'x');
    else if (what == "exit") std::exit(std::atoi(words[2]));
    else if (what == "throw") throw std::runtime_error("boom");
    else {
        std::cout << "looping" << std::endl;
        for (volatile int forever = 1; forever;) {}
    }
}
