use strict;
use warnings;
use threads;
use threads::shared;

sub sorted {
    my ($x, $sum) = (42, 0);
    my @numbers;
    push @numbers, $x = $x * 16807 % 2147483647 for 1 .. 1000000;
    $sum = ($sum * 31 + $_) % 1000000007 for sort { $a <=> $b } @numbers;
    print "$sum\n";
}

sub threads_of {
    my ($count) = @_;
    my $here : shared = 0;
    my @started;
    for my $number (1 .. $count) {
        push @started, threads->create(sub {
            lock($here);
            $here++;
            cond_broadcast($here);
            cond_wait($here) while $here < $count;
            return $number * $number;
        }) || die "no thread";
    }
    my $sum = 0;
    $sum += $_->join for @started;
    print "$sum\n";
}

my ($what, $count) = @ARGV;
$| = 1;
if ($what eq "sort") { sorted() }
elsif ($what eq "threads") { threads_of($count) }
elsif ($what eq "threads") { threads_of($count) }
elsif ($what eq "bomb") { my @all; push @all, "x" x (1 << 20) while 1 }
elsif ($what eq "exit") { exit $count }
elsif ($what eq "throw") { die "boom" }
else { print "looping\n"; 1 while 1 }
