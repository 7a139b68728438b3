import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.atomic.AtomicLong;

public class Main {
    static void sort() {
        long[] numbers = new long[1000000];
        long x = 42, sum = 0;
        for (int i = 0; i < numbers.length; i++) numbers[i] = x = x * 16807 % 2147483647;
        Arrays.sort(numbers);
        for (long number : numbers) sum = (sum * 31 + number) % 1000000007;
        System.out.println(sum);
    }

    static void threads(int count) throws Exception {
        CyclicBarrier allHere = new CyclicBarrier(count);
        AtomicLong sum = new AtomicLong();
        List<Thread> started = new ArrayList<>();
        for (int i = 1; i <= count; i++) {
            long square = (long) i * i;
            Thread thread = new Thread(() -> {
                try {
                    allHere.await();
                } catch (Exception broken) {
                    return;
                }
                sum.addAndGet(square);
            });
            thread.setDaemon(true);
            thread.start();
            started.add(thread);
        }
        for (Thread thread : started) thread.join();
        System.out.println(sum);
    }

    static void garbage() {
        Object[] kept = new Object[4];
        for (int i = 0; i < 600; i++) {
            Object[] chain = null;
            for (int j = 0; j < 30000; j++) chain = new Object[] {chain, null, null};
            kept[i % kept.length] = chain;
        }
        System.out.println("collected");
    }

    public static void main(String[] words) throws Exception {
        switch (words[0]) {
            case "sort": sort(); break;
            case "threads": threads(Integer.parseInt(words[1])); break;
            case "garbage": garbage(); break;
            case "bomb": for (List<byte[]> all = new ArrayList<>();;) {
                byte[] block = new byte[1 << 20];
                Arrays.fill(block, (byte) 1);
                all.add(block);
            }
            case "exit": System.exit(Integer.parseInt(words[1]));
            case "throw": throw new IllegalStateException("boom");
            default: System.out.println("looping"); for (;;) {}
        }
    }
}
