package main

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
)

func sorted() {
	numbers := make([]int, 1000000)
	x, sum := 42, 0
	for i := range numbers {
		x = x * 16807 % 2147483647
		numbers[i] = x
	}
	sort.Ints(numbers)
	for _, number := range numbers {
		sum = (sum*31 + number) % 1000000007
	}
	fmt.Println(sum)
}

func threads(count int) {
	var here, done sync.WaitGroup
	here.Add(count)
	done.Add(count)
	squares := make([]int, count)
	release := make(chan bool)
	for i := range squares {
		go func(i int) {
			runtime.LockOSThread()
			here.Done()
			<-release
			squares[i] = (i + 1) * (i + 1)
			done.Done()
		}(i)
	}
	here.Wait()
	close(release)
	done.Wait()
	sum := 0
	for _, square := range squares {
		sum += square
	}
	fmt.Println(sum)
}

type link struct {
	next *link
	more [2]*link
}

func garbage() {
	var kept [4]*link
	for i := 0; i < 600; i++ {
		var chain *link
		for j := 0; j < 30000; j++ {
			chain = &link{next: chain}
		}
		kept[i%4] = chain
	}
	fmt.Println("collected")
}

func bomb() {
	for all := [][]byte{}; ; {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = 1
		}
		all = append(all, block)
	}
}

func main() {
	count := 0
	if len(os.Args) > 2 {
		count, _ = strconv.Atoi(os.Args[2])
	}
	switch os.Args[1] {
	case "sort":
		sorted()
	case "threads":
		threads(count)
	case "garbage":
		garbage()
	case "bomb":
		bomb()
	case "exit":
		os.Exit(count)
	case "throw":
		panic("boom")
	default:
		fmt.Println("looping")
		for {
		}
	}
}
