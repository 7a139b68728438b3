/* One program in many languages: `sort`, `threads N`, `bomb`, `loop`, `exit N`, see test_runtimes.py. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static int sort(void) {
    static long numbers[1000000];
    long x = 42, sum = 0;
    for (int i = 0; i < 1000000; i++) numbers[i] = x = x * 16807 % 2147483647;
    qsort(numbers, 1000000, sizeof *numbers, compare);
    for (int i = 0; i < 1000000; i++) sum = (sum * 31 + numbers[i]) % 1000000007;
    return printf("%ld\n", sum) < 0;
}

static pthread_barrier_t all_here;

static void *square(void *number) {
    pthread_barrier_wait(&all_here);
    return (void *)((long)number * (long)number);
}

static int threads(long count) {
    pthread_t thread[1000];
    long sum = 0;
    void *value;
    pthread_barrier_init(&all_here, NULL, (unsigned)count);
    for (long i = 0; i < count; i++)
        if (pthread_create(&thread[i], NULL, square, (void *)(i + 1))) return 1;
    for (long i = 0; i < count; i++) {
        pthread_join(thread[i], &value);
        sum += (long)value;
    }
    return printf("%ld\n", sum) < 0;
}

static int bomb(void) {
    for (;;) {
        char *block = malloc(1 << 20);
        if (!block) return 1;
        memset(block, 1, 1 << 20);
    }
}

int main(int count, char **words) {
    if (count < 2) return 2;
    if (!strcmp(words[1], "sort")) return sort();
    if (!strcmp(words[1], "threads")) return threads(atol(words[2]));
    if (!strcmp(words[1], "bomb")) return bomb();
    if (!strcmp(words[1], "exit")) return atoi(words[2]);
    puts("looping");
    fflush(stdout);
    for (volatile int forever = 1; forever;) {}
    return 0;
}
