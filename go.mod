module darklaunch

go 1.26.0

require (
	github.com/dchest/siphash v1.2.3
	github.com/google/go-cmp v0.7.0
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.2.0
)
