def sort
  x, sum = 42, 0
  numbers = Array.new(1_000_000) { x = x * 16807 % 2147483647 }
  numbers.sort!
  numbers.each { |number| sum = (sum * 31 + number) % 1000000007 }
  puts sum
end

def threads(count)
  here, release = Queue.new, Queue.new
  started = (1..count).map do |number|
    Thread.new { here << 1; release.pop; number * number }
  end
  count.times { here.pop }
  count.times { release << 1 }
  puts started.sum(&:value)
end

def garbage
  kept = []
  200.times do |turn|
    chain = nil
    10_000.times { chain = [chain, nil, nil, nil] }
    kept[turn % 4] = chain
  end
  puts "collected"
end

def bomb
  all = []
  loop { all << "x" * (1 << 20) }
end

case ARGV[0]
when "sort" then sort
when "threads" then threads(ARGV[1].to_i)
when "garbage" then garbage
when "bomb" then bomb
when "exit" then exit ARGV[1].to_i
when "throw" then raise "boom"
else
  puts "looping"
  $stdout.flush
  loop {}
end
